//! Bulk memory: `memory.copy`, `memory.fill`, `memory.init` and `data.drop`, all done by the engine.

use super::translator::Translator;
use cranelift_codegen::ir::InstBuilder;
use cranelift_codegen::ir::types::{I32, I64};
use peregrine_artifact::builtins::{Builtin, pack_indices};
use wasmparser::Operator;

impl Translator<'_, '_> {
    /// Translates `op` if it is of this family.
    pub(super) fn bulk(&mut self, op: &Operator<'_>) -> bool {
        match *op {
            Operator::MemoryCopy { dst_mem, src_mem } => {
                let (target, source, len) = self.pop3();
                let (target, source, len) = (self.widen(target), self.widen(source), self.widen(len));
                let memories = self.builder.ins().iconst(I64, pack_indices(dst_mem, src_mem) as i64);
                self.call_builtin(Builtin::memory_copy, &[memories, target, source, len]);
            }
            Operator::MemoryFill { mem } => {
                let (target, value, len) = self.pop3();
                let (target, len) = (self.widen(target), self.widen(len));
                let memory = self.builder.ins().iconst(I32, i64::from(mem));
                self.call_builtin(Builtin::memory_fill, &[memory, target, value, len]);
            }
            Operator::MemoryInit { data_index, mem } => {
                let (target, source, len) = self.pop3();
                let target = self.widen(target);
                let indices = self.builder.ins().iconst(I64, pack_indices(mem, data_index) as i64);
                self.call_builtin(Builtin::memory_init, &[indices, target, source, len]);
            }
            Operator::DataDrop { data_index } => {
                let data = self.builder.ins().iconst(I32, i64::from(data_index));
                self.call_builtin(Builtin::data_drop, &[data]);
            }
            _ => return false,
        }
        true
    }
}
