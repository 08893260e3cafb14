//! Core dumps: what a store held when a guest trapped, for debuggers to read afterwards.
//!
//! The file format is that of the WebAssembly tool conventions (`Coredump.md`): a module whose memories, globals and data are those of the
//! store, with custom sections for the rest:
//!
//! | section | content |
//! |---|---|
//! | `core` | the name of the program |
//! | `coremodules` | the names of modules |
//! | `coreinstances` | for each instance: number of its module, numbers of its memories and globals |
//! | `corestack` | the calls that were under way: instance, function, offset of the instruction in it, and locals; what is not known is marked as missing |
//!
//! The format has values of the four number types and the mark for a missing one, and no more. So in a file vectors and references are missing
//! ([`WasmCoreDump::locals`] gives vectors), references in globals are null, tables are left out, and operands that are not in a local are not
//! there at all. A function of more than 8,192 locals keeps none of them.
//!
//! Each call keeps the context of its instance beside its locals. Where it is not known, of a call that found no room on the stack, or of one with
//! so many locals, it is taken to be that of the nearest older call of the same module; without one, the first instance of the module.

use crate::context::AsContextMut;
use crate::store::StoreOpaque;
use crate::vm::{InstanceId, LoadedModule, RawFrame};
use crate::{AsContext, FrameInfo, Global, Instance, Memory, Module, Mutability, Val, ValType, WasmBacktrace};
use peregrine_wasm::{DefinedGlobalIndex, DefinedMemoryIndex, GlobalIndex, Index, MemoryIndex};
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

/// What a store held when a guest trapped. Errors of calls carry one if [`Config::coredump_on_trap`](crate::Config::coredump_on_trap) is
/// on.
///
/// It refers to the store, whose memories it reads when it is [serialized](Self::serialize): do that before anything else runs there.
///
/// ```
/// use peregrine::{Config, Engine, Instance, Module, Store, WasmCoreDump};
///
/// let engine = Engine::new(Config::new().coredump_on_trap(true))?;
/// let module = Module::new(&engine, r#"(module $app (memory 1) (func $fail (export "run") unreachable))"#)?;
/// let mut store = Store::new(&engine, ());
/// let run = Instance::new(&mut store, &module, &[])?.get_typed_func::<(), ()>(&mut store, "run")?;
/// let error = run.call(&mut store, ()).unwrap_err();
/// let dump = error.downcast_ref::<WasmCoreDump>().unwrap();
/// assert_eq!(dump.frames()[0].func_name(), Some("fail"));
/// let file = dump.serialize(&mut store, "app.wasm");
/// assert!(file.starts_with(b"\0asm"));
/// # Ok::<(), peregrine::Error>(())
/// ```
#[derive(Debug)]
pub struct WasmCoreDump {
    backtrace: WasmBacktrace,
    /// For each frame the bits of its locals, if they are known.
    locals: Vec<Option<Box<[u128]>>>,
    /// For each frame its instance, by position below.
    instances_of_frames: Vec<u32>,
    /// By number in the store: what frames name.
    modules: Vec<Module>,
    instances: Vec<Instance>,
    memories: Vec<Memory>,
    globals: Vec<Global>,
    /// For each instance: its module, memories and globals, by position above.
    parts: Vec<(u32, Vec<u32>, Vec<u32>)>,
}

/// Where a dump has what it has already, so that it takes time for each thing once.
#[derive(Default)]
struct Known {
    modules: HashMap<*const LoadedModule, u32>,
    memories: HashMap<(InstanceId, DefinedMemoryIndex), u32>,
    globals: HashMap<(InstanceId, DefinedGlobalIndex), u32>,
}

/// Bytes of memory that are looked at together: only those with a byte that is not zero are written.
const CHUNK_BYTES: usize = 4096;

impl WasmCoreDump {
    pub(crate) fn new(store: &StoreOpaque, mut frames: Vec<RawFrame>) -> Self {
        let locals = frames.iter_mut().map(|frame| frame.locals.take()).collect();
        let contexts: Vec<Option<u64>> = frames.iter().map(|frame| frame.context).collect();
        let backtrace = WasmBacktrace::new(store.engine(), frames);
        let mut dump = Self {
            backtrace,
            locals,
            instances_of_frames: Vec::new(),
            modules: Vec::new(),
            instances: Vec::new(),
            memories: Vec::new(),
            globals: Vec::new(),
            parts: Vec::new(),
        };
        let mut known = Known::default();
        for (id, module) in store.instances() {
            dump.add(store, &mut known, id, module);
        }
        dump.instances_of_frames = dump.find_instances(store, &contexts);
        dump
    }

    /// The instance of each frame, by position, where its code kept a context or not.
    fn find_instances(&self, store: &StoreOpaque, contexts: &[Option<u64>]) -> Vec<u32> {
        let module_of = |position: u32| Arc::as_ptr(self.modules[self.parts[position as usize].0 as usize].loaded());
        let (mut by_context, mut likely) = (HashMap::new(), HashMap::new());
        for (position, (id, _)) in (0..).zip(store.instances()) {
            by_context.insert(store.vm.instance(id).context().as_ptr() as u64, position);
            likely.entry(module_of(position)).or_insert(position);
        }
        // Those below tell what is likely.
        let mut found: Vec<u32> = self
            .frames()
            .iter()
            .zip(contexts)
            .rev()
            .map(|(frame, context)| {
                let module = Arc::as_ptr(frame.module().loaded());
                let known = context.and_then(|context| by_context.get(&context).copied()).filter(|position| module_of(*position) == module);
                if let Some(position) = known {
                    likely.insert(module, position);
                }
                likely.get(&module).copied().unwrap_or(0)
            })
            .collect();
        found.reverse();
        found
    }

    fn add(&mut self, store: &StoreOpaque, known: &mut Known, id: InstanceId, module: &Module) {
        let module_number = *known.modules.entry(Arc::as_ptr(module.loaded())).or_insert_with(|| {
            self.modules.push(module.clone());
            self.modules.len() as u32 - 1
        });
        let instance = store.vm.instance(id);
        let description = module.loaded().module();
        let memories = (0..description.memories.len()).filter_map(|index| {
            let index = MemoryIndex::from_usize(index);
            // Other threads may write to a shared memory meanwhile: it belongs to no one store.
            if description.memories[index].shared {
                return None;
            }
            let origin = instance.memory_origin(index);
            Some(*known.memories.entry(origin).or_insert_with(|| {
                self.memories.push(Memory::from_id(store, origin));
                self.memories.len() as u32 - 1
            }))
        });
        let memories = memories.collect();
        let globals = (0..description.globals.len()).map(|index| {
            let origin = instance.global_origin(GlobalIndex::from_usize(index));
            *known.globals.entry(origin).or_insert_with(|| {
                self.globals.push(Global::from_id(store, origin));
                self.globals.len() as u32 - 1
            })
        });
        let globals = globals.collect();
        self.instances.push(Instance::from_id(store, id));
        self.parts.push((module_number, memories, globals));
    }

    /// The calls that were under way, newest first.
    pub fn frames(&self) -> &[FrameInfo] {
        self.backtrace.frames()
    }

    /// The modules that the store has instances of.
    pub fn modules(&self) -> &[Module] {
        &self.modules
    }

    /// The instances of the store.
    pub fn instances(&self) -> &[Instance] {
        &self.instances
    }

    /// The globals of the instances, imported ones included.
    pub fn globals(&self) -> &[Global] {
        &self.globals
    }

    /// The memories of the instances, imported ones included, but for those that threads share.
    pub fn memories(&self) -> &[Memory] {
        &self.memories
    }

    /// The locals of the call at a position of [`frames`](Self::frames), parameters first. Those that are not known are `None`, and so are
    /// references, which a dump does not keep alive. Empty if the function is not known to have any, or there is no such call.
    ///
    /// ```
    /// use peregrine::{Config, Engine, Instance, Module, Store, Val, WasmCoreDump};
    ///
    /// let engine = Engine::new(Config::new().coredump_on_trap(true))?;
    /// let module = Module::new(&engine, r#"(module (func (export "run") (param i32) (local v128) unreachable))"#)?;
    /// let mut store = Store::new(&engine, ());
    /// let run = Instance::new(&mut store, &module, &[])?.get_typed_func::<i32, ()>(&mut store, "run")?;
    /// let error = run.call(&mut store, 7).unwrap_err();
    /// let locals = error.downcast_ref::<WasmCoreDump>().unwrap().locals(0);
    /// assert!(matches!(locals[..], [Some(Val::I32(7)), Some(Val::V128(zero))] if zero.as_u128() == 0));
    /// # Ok::<(), peregrine::Error>(())
    /// ```
    pub fn locals(&self, frame: usize) -> Vec<Option<Val>> {
        let (Some(call), Some(values)) = (self.frames().get(frame), self.locals.get(frame)) else { return Vec::new() };
        let (types, values) = (locals_of(call), values.as_deref().unwrap_or_default());
        let value = |(position, ty): (usize, &TypeByte)| {
            let bits = *values.get(position)?;
            match ty {
                0x7f => Some(Val::I32(bits as i32)),
                0x7e => Some(Val::I64(bits as i64)),
                0x7d => Some(Val::F32(bits as u32)),
                0x7c => Some(Val::F64(bits as u64)),
                &VECTOR => Some(Val::V128(bits.into())),
                _ => None,
            }
        };
        types.iter().enumerate().map(value).collect()
    }

    /// The core dump as a file, of the program `name`, with memories and globals as they are now.
    ///
    /// # Panics
    ///
    /// If it belongs to another store.
    pub fn serialize(&self, mut store: impl AsContextMut, name: &str) -> Vec<u8> {
        let mut file = b"\0asm\x01\0\0\0".to_vec();
        let mut content = vec![0];
        put_name(&mut content, name);
        put_custom(&mut file, "core", &content);

        let mut content = Vec::new();
        put_u64(&mut content, self.modules.len() as u64);
        for (number, module) in self.modules.iter().enumerate() {
            content.push(0);
            match module.name() {
                Some(name) => put_name(&mut content, name),
                None => put_name(&mut content, &format!("<module {number}>")),
            }
        }
        put_custom(&mut file, "coremodules", &content);

        let mut content = Vec::new();
        put_u64(&mut content, self.parts.len() as u64);
        for (module, memories, globals) in &self.parts {
            content.push(0);
            put_u64(&mut content, (*module).into());
            for list in [memories, globals] {
                put_u64(&mut content, list.len() as u64);
                list.iter().for_each(|number| put_u64(&mut content, (*number).into()));
            }
        }
        put_custom(&mut file, "coreinstances", &content);
        put_custom(&mut file, "corestack", &self.stack());

        put_section(&mut file, 5, &self.memory_types(&store));
        put_section(&mut file, 6, &self.global_values(&mut store));
        put_section(&mut file, 11, &self.data(&store));
        file
    }

    fn stack(&self) -> Vec<u8> {
        let mut content = vec![0];
        put_name(&mut content, "main");
        put_u64(&mut content, self.frames().len() as u64);
        for ((frame, values), instance) in self.frames().iter().zip(&self.locals).zip(&self.instances_of_frames) {
            content.push(0);
            put_u64(&mut content, (*instance).into());
            put_u64(&mut content, frame.func_index().into());
            put_u64(&mut content, frame.func_offset().unwrap_or(0) as u64);
            put_locals(&mut content, &locals_of(frame), values.as_deref().unwrap_or_default());
            // Operands are not kept.
            put_u64(&mut content, 0);
        }
        content
    }

    fn memory_types(&self, store: impl AsContext) -> Vec<u8> {
        let mut content = Vec::new();
        put_u64(&mut content, self.memories.len() as u64);
        for memory in &self.memories {
            let ty = memory.ty(&store);
            let custom_page = ty.page_size_log2() != 16;
            content.push(u8::from(ty.maximum().is_some()) | u8::from(ty.is_64()) << 2 | u8::from(custom_page) << 3);
            put_u64(&mut content, memory.size(&store));
            ty.maximum().inspect(|max| put_u64(&mut content, *max));
            if custom_page {
                put_u64(&mut content, ty.page_size_log2().into());
            }
        }
        content
    }

    fn global_values(&self, mut store: impl AsContextMut) -> Vec<u8> {
        let mut content = Vec::new();
        put_u64(&mut content, self.globals.len() as u64);
        for global in &self.globals {
            let ty = global.ty(&store);
            // References mean nothing outside of the store: nulls are written.
            let content_type = match ty.content() {
                ValType::I32 => 0x7f,
                ValType::I64 => 0x7e,
                ValType::F32 => 0x7d,
                ValType::F64 => 0x7c,
                ValType::V128 => 0x7b,
                ValType::Ref(ty) if ty.heap_type().top().is_func() => 0x70,
                ValType::Ref(_) => 0x6f,
            };
            content.push(content_type);
            content.push(u8::from(ty.mutability() == Mutability::Var));
            match global.get(&mut store) {
                Val::I32(value) => {
                    content.push(0x41);
                    put_i64(&mut content, value.into());
                }
                Val::I64(value) => {
                    content.push(0x42);
                    put_i64(&mut content, value);
                }
                Val::F32(bits) => {
                    content.push(0x43);
                    content.extend(bits.to_le_bytes());
                }
                Val::F64(bits) => {
                    content.push(0x44);
                    content.extend(bits.to_le_bytes());
                }
                Val::V128(bits) => {
                    content.extend([0xfd, 12]);
                    content.extend(bits.as_u128().to_le_bytes());
                }
                _ => content.extend([0xd0, content_type]),
            }
            content.push(0x0b);
        }
        content
    }

    /// One segment for each run of bytes that are not all zero.
    fn data(&self, store: impl AsContext) -> Vec<u8> {
        let context = store.as_context();
        let (mut segments, mut count) = (Vec::new(), 0u64);
        for (number, memory) in self.memories.iter().enumerate() {
            let is_64 = memory.ty(&context).is_64();
            let bytes = memory.data(&context);
            let mut start = 0;
            while start < bytes.len() {
                let chunk_end = |start: usize| (start + CHUNK_BYTES).min(bytes.len());
                if bytes[start..chunk_end(start)].iter().all(|byte| *byte == 0) {
                    start = chunk_end(start);
                    continue;
                }
                let mut end = chunk_end(start);
                while end < bytes.len() && bytes[end..chunk_end(end)].iter().any(|byte| *byte != 0) {
                    end = chunk_end(end);
                }
                match number {
                    0 => segments.push(0),
                    _ => {
                        segments.push(2);
                        put_u64(&mut segments, number as u64);
                    }
                }
                // Addresses are signed in the text of a constant, whatever they mean.
                segments.push(if is_64 { 0x42 } else { 0x41 });
                put_i64(&mut segments, if is_64 { start as i64 } else { (start as u32 as i32).into() });
                segments.push(0x0b);
                put_u64(&mut segments, (end - start) as u64);
                segments.extend_from_slice(&bytes[start..end]);
                count += 1;
                start = end;
            }
        }
        let mut content = Vec::new();
        put_u64(&mut content, count);
        content.append(&mut segments);
        content
    }
}

/// A value that is not known.
const MISSING: u8 = 1;
/// More locals are not written: valid functions have at most so many.
const MAX_LOCALS: usize = 50_000;

/// The types of values that are kept, by their bytes in binaries; 0 for others.
type TypeByte = u8;
/// The type that is kept, and that the format has no value of.
const VECTOR: TypeByte = 0x7b;

/// The types of the locals of a frame's function, parameters included. Of a module that does not keep its binary, the parameters alone.
fn locals_of(frame: &FrameInfo) -> Vec<TypeByte> {
    let loaded = frame.module().loaded();
    let module = loaded.module();
    let Some(function) = module.functions.values().nth(frame.func_index() as usize) else { return Vec::new() };
    let mut types: Vec<TypeByte> = module.types[function.ty].params.iter().map(type_byte).collect();
    let start = frame.func_start();
    let declared = match (loaded.binary(), loaded.tiering()) {
        (Some(binary), _) => binary.get(start..).and_then(declared_locals),
        (None, Some(tiering)) => tiering.source().binary.bytes().ok().and_then(|binary| declared_locals((*binary).as_ref().get(start..)?)),
        (None, None) => None,
    };
    types.extend(declared.unwrap_or_default());
    types.truncate(MAX_LOCALS);
    types
}

fn type_byte(ty: &peregrine_wasm::ValType) -> TypeByte {
    match ty {
        peregrine_wasm::ValType::I32 => 0x7f,
        peregrine_wasm::ValType::I64 => 0x7e,
        peregrine_wasm::ValType::F32 => 0x7d,
        peregrine_wasm::ValType::F64 => 0x7c,
        peregrine_wasm::ValType::V128 => VECTOR,
        peregrine_wasm::ValType::Ref(_) => 0,
    }
}

/// The types of the locals that the body of a function declares. Core specification, section 5.5.13.
fn declared_locals(mut body: &[u8]) -> Option<Vec<TypeByte>> {
    let mut number = || {
        let mut value = 0u64;
        for shift in (0..35).step_by(7) {
            let (byte, rest) = body.split_first()?;
            body = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    };
    let mut declared = Vec::new();
    for _ in 0..number()? {
        let count = number()? as usize;
        // A type: one byte, or a reference type with its heap type.
        let ty = number()?;
        if matches!(ty, 0x63 | 0x64) {
            number()?;
        }
        let byte = if (VECTOR.into()..=0x7f).contains(&ty) { ty as TypeByte } else { 0 };
        declared.resize(declared.len().saturating_add(count).min(MAX_LOCALS), byte);
    }
    Some(declared)
}

/// Locals of such types with the values that are known.
fn put_locals(content: &mut Vec<u8>, types: &[TypeByte], values: &[u128]) {
    let count = types.len().max(values.len());
    put_u64(content, count as u64);
    for position in 0..count {
        let ty = types.get(position).copied().filter(|ty| !matches!(*ty, 0 | VECTOR));
        let (Some(ty), Some(&bits)) = (ty, values.get(position)) else {
            content.push(MISSING);
            continue;
        };
        content.push(ty);
        match ty {
            0x7f => put_i64(content, (bits as u32 as i32).into()),
            0x7e => put_i64(content, bits as u64 as i64),
            0x7d => content.extend((bits as u32).to_le_bytes()),
            _ => content.extend((bits as u64).to_le_bytes()),
        }
    }
}

fn put_u64(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

fn put_i64(bytes: &mut Vec<u8>, mut value: i64) {
    while !(-64..64).contains(&value) {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8 & 0x7f);
}

fn put_name(bytes: &mut Vec<u8>, name: &str) {
    put_u64(bytes, name.len() as u64);
    bytes.extend_from_slice(name.as_bytes());
}

fn put_section(file: &mut Vec<u8>, id: u8, content: &[u8]) {
    file.push(id);
    put_u64(file, content.len() as u64);
    file.extend_from_slice(content);
}

fn put_custom(file: &mut Vec<u8>, name: &str, content: &[u8]) {
    let mut named = Vec::new();
    put_name(&mut named, name);
    named.extend_from_slice(content);
    put_section(file, 0, &named);
}

impl fmt::Display for WasmCoreDump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (instances, memories, globals) = (self.instances.len(), self.memories.len(), self.globals.len());
        write!(f, "core dump of {instances} instances, {memories} memories and {globals} globals")
    }
}

impl std::error::Error for WasmCoreDump {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn declared_locals_are_counted() {
        // Three i32, 200 v128, and one reference to a function of type 5.
        let types = declared_locals(&[4, 2, 0x7f, 0xc8, 1, 0x7b, 1, 0x63, 5, 1, 0x7c, 0x0b]).expect("well-formed");
        assert_eq!((types.len(), &types[..3], &types[201..]), (204, &[0x7f, 0x7f, VECTOR][..], &[VECTOR, 0, 0x7c][..]));
        assert_eq!(declared_locals(&[0, 0x0b]), Some(Vec::new()));
        assert_eq!(declared_locals(&[2, 1, 0x7f]), None);
    }

    #[test]
    fn known_values_are_written_and_others_marked() {
        let mut content = Vec::new();
        let values = [u128::MAX, 64, 1.0f32.to_bits().into(), 9, 9, 2.0f64.to_bits().into()];
        put_locals(&mut content, &[0x7f, 0x7e, 0x7d, 0, VECTOR, 0x7c, 0x7f], &values);
        let expected = [&[7, 0x7f, 0x7f, 0x7e, 0xc0, 0, 0x7d, 0, 0, 0x80, 0x3f, 1, 1, 0x7c][..], &2.0f64.to_le_bytes(), &[1]].concat();
        assert_eq!(content, expected);
    }

    #[test]
    fn numbers_are_in_leb128() {
        let unsigned = |value| {
            let mut bytes = Vec::new();
            put_u64(&mut bytes, value);
            bytes
        };
        let signed = |value| {
            let mut bytes = Vec::new();
            put_i64(&mut bytes, value);
            bytes
        };
        assert_eq!((unsigned(0), unsigned(127), unsigned(624_485)), (vec![0], vec![0x7f], vec![0xe5, 0x8e, 0x26]));
        assert_eq!((signed(-1), signed(63), signed(64), signed(-123_456)), (vec![0x7f], vec![63], vec![0xc0, 0], vec![0xc0, 0xbb, 0x78]));
    }
}
