//! A tier whose code tells what it was made from, and calls every function that the body calls.
//!
//! Code of a function is `f0 length-of-body(u32)` (the distance of its budget, if it is counted), then `e8 rel32` for each `call` in the body, then the body's bytes and `c3`. A body that
//! has the constant `FAIL`, `PANIC` or `HUGE` makes the tier fail, panic or make a megabyte of code.

use crate::driver::ImageCompiler;
use crate::tier::{FunctionCompiler, ModuleEnv, Tier};
use peregrine_artifact::abi::StubKind;
use peregrine_artifact::compiler::{CompileError, Compiler, CompilerKind};
use peregrine_artifact::func::{CompiledFunc, Reloc, RelocKind, RelocTarget};
use peregrine_artifact::image::{ImageLayout, ImageMeta, Section};
use peregrine_artifact::settings::{Settings, Target, Tiering};
use peregrine_wasm::{DefinedFuncIndex, FuncIndex, Trap, TypeIndex};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use wasmparser::Operator;

/// `i32.const` operands that make the tier fail.
pub(super) const FAIL: i32 = 0x0bad;
pub(super) const PANIC: i32 = 0x0badbad;
pub(super) const HUGE: i32 = 0x7777;

/// The mark of the baseline.
pub(super) const FAST: u8 = 0xfa;

#[derive(Default)]
pub(super) struct FakeTier {
    /// How many functions were compiled.
    pub(super) functions: Arc<AtomicUsize>,
    /// How many stubs were compiled.
    pub(super) stubs: Arc<AtomicUsize>,
    /// What is in place of `f0`, if anything.
    pub(super) mark: Option<u8>,
}

impl FakeTier {
    /// A tier whose functions begin with `mark`.
    pub(super) fn marked(mark: u8) -> Self {
        Self { mark: Some(mark), ..Self::default() }
    }
}

impl Tier for FakeTier {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn target(&self, triple: Option<&str>) -> Result<Target, CompileError> {
        Ok(Target { triple: triple.unwrap_or("x86_64-unknown-linux-gnu").into(), cpu_features: vec![] })
    }

    fn function_compiler<'m>(&self, env: &'m ModuleEnv<'m>) -> Result<Box<dyn FunctionCompiler + 'm>, CompileError> {
        Ok(Box::new(FakeCompiler { env, functions: self.functions.clone(), stubs: self.stubs.clone(), mark: self.mark.unwrap_or(0xf0) }))
    }
}

struct FakeCompiler<'m> {
    env: &'m ModuleEnv<'m>,
    functions: Arc<AtomicUsize>,
    stubs: Arc<AtomicUsize>,
    mark: u8,
}

impl FunctionCompiler for FakeCompiler<'_> {
    fn function(&mut self, index: DefinedFuncIndex) -> Result<CompiledFunc, CompileError> {
        self.functions.fetch_add(1, Ordering::Relaxed);
        let body = self.env.translation.body(index);
        let tier = if self.mark == FAST { CompilerKind::Baseline } else { CompilerKind::Optimizing };
        let mut compiled = CompiledFunc { tier, ..CompiledFunc::default() };
        compiled.code.push(self.mark);
        compiled.code.extend((body.as_bytes().len() as u32).to_le_bytes());
        if self.env.settings.tiering == Tiering::Counted {
            let reloc = Reloc { offset: 1, kind: RelocKind::X64Rel32, target: RelocTarget::Budget(index), addend: 0 };
            compiled.relocs.push(reloc);
        }
        compiled.addresses.push((0, 0));
        let mut reader = body.get_operators_reader().expect("valid");
        while let Ok((operator, offset)) = reader.read_with_offset() {
            let at = compiled.code.len() as u32;
            match operator {
                Operator::Call { function_index } if function_index >= self.env.translation.module.imported_functions => {
                    compiled.code.extend([0xe8, 0, 0, 0, 0]);
                    let callee = FuncIndex::from_u32(function_index);
                    let target = match self.env.settings.tiering {
                        Tiering::Whole => RelocTarget::Function(callee),
                        Tiering::Slots | Tiering::Counted => RelocTarget::Slot(callee),
                    };
                    compiled.relocs.push(Reloc { offset: at + 1, kind: RelocKind::X64Rel32, target, addend: -4 });
                    compiled.addresses.push((at, (offset - body.range().start) as u32));
                }
                Operator::Unreachable => {
                    compiled.code.push(0x0f);
                    compiled.traps.push((at, Trap::UnreachableCodeReached));
                }
                Operator::I32Const { value: FAIL } => return Err(CompileError::Limit { message: format!("fail {}", index.as_u32()) }),
                Operator::I32Const { value: PANIC } => panic!("panic {}", index.as_u32()),
                Operator::I32Const { value: HUGE } => compiled.code.resize(1 << 20, 0x90),
                _ => {}
            }
            if reader.eof() {
                break;
            }
        }
        compiled.code.extend_from_slice(body.as_bytes());
        compiled.code.push(0xc3);
        Ok(compiled)
    }

    fn stub(&mut self, kind: StubKind, ty: TypeIndex) -> Result<CompiledFunc, CompileError> {
        self.stubs.fetch_add(1, Ordering::Relaxed);
        let code = match kind {
            StubKind::Enter => vec![0xee, ty.as_u32() as u8],
            StubKind::Exit => vec![0xff, ty.as_u32() as u8, 0],
        };
        Ok(CompiledFunc { code, ..CompiledFunc::default() })
    }
}

/// Settings for the fake target.
pub(super) fn settings() -> Settings {
    Settings::new(Target { triple: "x86_64-unknown-linux-gnu".into(), cpu_features: vec![] })
}

/// A compiler with a fake tier, on so many threads.
pub(super) fn compiler(threads: usize) -> ImageCompiler {
    ImageCompiler::new(Arc::new(FakeTier::default())).with_threads(NonZeroUsize::new(threads).expect("some threads"))
}

/// An image, checked and taken apart.
pub(super) struct Checked {
    pub(super) bytes: Vec<u8>,
    pub(super) layout: ImageLayout,
    pub(super) meta: ImageMeta,
}

impl Checked {
    /// Checks that `bytes` are a good image.
    #[track_caller]
    pub(super) fn new(bytes: Vec<u8>) -> Self {
        let layout = ImageLayout::check(&bytes).expect("a good image");
        let meta = layout.meta(&bytes).expect("good meta");
        Self { bytes, layout, meta }
    }

    /// Compiles a module in the text format.
    #[track_caller]
    pub(super) fn compile(text: &str) -> Self {
        let wasm = wat::parse_str(text).expect("good text");
        Self::new(compiler(2).compile(&wasm, &settings(), &()).expect("a good module"))
    }

    /// The code of a defined function.
    pub(super) fn code(&self, position: usize) -> &[u8] {
        let entry = self.layout.functions(&self.bytes)[position];
        let start = entry.code_start.get() as usize;
        &self.layout.section(&self.bytes, Section::Text)[start..start + entry.code_len.get() as usize]
    }
}
