//! Bulk memory: `memory.copy`, `memory.fill`, `memory.init` and `data.drop`. The engine does them, but for what [`super::short`] does in place.

use super::short::Short;
use super::translator::Translator;
use cranelift_codegen::ir::types::{I32, I64};
use cranelift_codegen::ir::{Block, InstBuilder};
use peregrine_artifact::builtins::{Builtin, pack_indices};
use wasmparser::Operator;

impl Translator<'_, '_> {
    /// Translates `op` if it is of this family.
    pub(super) fn bulk(&mut self, op: &Operator<'_>) -> bool {
        match *op {
            Operator::MemoryCopy { dst_mem, src_mem } => {
                let operands = self.pop3();
                let short = self.short_copy((dst_mem, src_mem), operands);
                let Some(done) = self.begin_general(&short) else { return true };
                let (target, source, len) = operands;
                let (target, source, len) = (self.widen(target), self.widen(source), self.widen(len));
                let memories = self.builder.ins().iconst(I64, pack_indices(dst_mem, src_mem) as i64);
                self.call_builtin(Builtin::memory_copy, &[memories, target, source, len]);
                self.end_general(done);
            }
            Operator::MemoryFill { mem } => {
                let operands = self.pop3();
                let short = self.short_fill(mem, operands);
                let Some(done) = self.begin_general(&short) else { return true };
                let (target, value, len) = operands;
                let (target, len) = (self.widen(target), self.widen(len));
                let memory = self.builder.ins().iconst(I32, i64::from(mem));
                self.call_builtin(Builtin::memory_fill, &[memory, target, value, len]);
                self.end_general(done);
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

    /// Begins the part of an operation that the engine does: all of it, or what is not short. `None`: there is no such part. Otherwise to be ended
    /// with what is returned.
    fn begin_general(&mut self, short: &Short) -> Option<Option<Block>> {
        match *short {
            Short::No => Some(None),
            Short::Done => None,
            Short::OrElse((general, done)) => {
                self.begin_sealed(general);
                Some(Some(done))
            }
        }
    }

    fn end_general(&mut self, done: Option<Block>) {
        if let Some(done) = done {
            self.builder.ins().jump(done, &[]);
            self.begin_sealed(done);
        }
    }
}
