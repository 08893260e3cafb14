//! The machine alone: text to image to instance to call, without the API.

use super::alloc::{Counting, KeptShared};
use super::host::HostCall;
use super::interrupt::failed_interruptions;
use super::interrupt_pages::tests::without_mappings;
use super::*;
use peregrine_artifact::compiler::Compiler;
use peregrine_artifact::settings::Settings;
use peregrine_artifact::vmctx::VmContextHeader;
use peregrine_compile::ImageCompiler;
use peregrine_optimizing::Optimizing;
use peregrine_sys::stack::{StackPool, StackPoolConfig};
use peregrine_wasm::{EntityIndex, Trap};
use std::ptr::NonNull;
use std::sync::Arc;

struct Machine {
    compiler: ImageCompiler,
    shared: Arc<VmShared>,
    store: Box<VmStore>,
}

impl Machine {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let compiler = ImageCompiler::new(Arc::new(Optimizing));
        let mut settings = Settings::new(compiler.target(None).expect("this machine is supported"));
        change(&mut settings);
        let shared = Arc::new(VmShared::new(
            settings,
            super::address_space::AddressRoom::measure(None, 0),
            StackPool::new(StackPoolConfig::default()),
        ));
        let store = VmStore::new(KeptShared::Own(Arc::clone(&shared)), None).expect("a store");
        Self { compiler, shared, store }
    }

    fn instantiate(&mut self, text: &str, imports: &[VmImport]) -> Result<InstanceId, Pending> {
        let wasm = self.compiler.to_binary(text.as_bytes()).expect("good text");
        let image = self.compiler.compile(&wasm, &self.shared.settings, &()).expect("a valid module");
        let module = LoadedModule::from_bytes(&image, &self.shared.types, LoadOptions::default()).expect("a good image");
        self.store.instantiate(&module, imports)
    }

    fn call(&mut self, instance: InstanceId, name: &str, arguments: &[ValRaw]) -> Result<ValRaw, Pending> {
        let module = self.store.instance(instance).module();
        let Some(EntityIndex::Function(index)) = module.module().export(name).map(|export| export.entity) else {
            panic!("no function is exported as {name}")
        };
        let func_ref = self.store.func_ref(FuncId::Wasm(instance, index));
        let mut values = [ValRaw::default(); 16];
        values[..arguments.len()].copy_from_slice(arguments);
        // SAFETY: the store is ours, the reference is its own, and the tests pass what the functions take.
        unsafe { call(NonNull::from(&mut *self.store), func_ref, values.as_mut_ptr()) }.map(|()| values[0])
    }

    fn trap(&mut self, instance: InstanceId, name: &str, arguments: &[ValRaw]) -> (Trap, Vec<String>) {
        match self.call(instance, name, arguments) {
            Err(Pending::Trap(trap, frames)) => {
                let name = |frame: &RawFrame| frame.module.function_name(frame.function).unwrap_or("?").to_owned();
                (trap, frames.iter().map(name).collect())
            }
            Err(_) => panic!("another failure than a trap"),
            Ok(value) => panic!("no trap but {value:?}"),
        }
    }
}

fn ok<T>(result: Result<T, Pending>) -> T {
    match result {
        Ok(value) => value,
        Err(Pending::Trap(trap, _)) => panic!("trap: {trap}"),
        Err(Pending::Error(error, _)) => panic!("error: {error:#}"),
        Err(Pending::Panic(_)) => panic!("a host function panicked"),
    }
}

#[test]
fn recursion_runs() {
    let mut machine = Machine::new();
    let instance = ok(machine.instantiate(
        r#"(module (func $fib (export "fib") (param i32) (result i32)
            local.get 0 i32.const 2 i32.lt_u if (result i32) local.get 0 else
            local.get 0 i32.const 1 i32.sub call $fib
            local.get 0 i32.const 2 i32.sub call $fib i32.add end))"#,
        &[],
    ));
    assert_eq!(ok(machine.call(instance, "fib", &[ValRaw::i32(20)])).get_i32(), 6765);
}

#[test]
fn traps_unwind_and_tell_where() {
    let mut machine = Machine::new();
    let instance = ok(machine.instantiate(
        r#"(module (memory 1)
            (func $div (export "div") (param i32 i32) (result i32) local.get 0 local.get 1 i32.div_s)
            (func $outer (export "outer") (result i32) i32.const 1 i32.const 0 call $div)
            (func $load (export "load") (param i32) (result i32) local.get 0 i32.load)
            (func $stop (export "stop") unreachable)
            (func $deep (export "deep") call $deep)
            (func (export "grow") (param i32) (result i32) local.get 0 memory.grow))"#,
        &[],
    ));
    assert_eq!(machine.trap(instance, "outer", &[]), (Trap::IntegerDivisionByZero, vec!["div".into(), "outer".into()]));
    let overflow = [ValRaw::i32(i32::MIN), ValRaw::i32(-1)];
    assert_eq!(machine.trap(instance, "div", &overflow).0, Trap::IntegerOverflow);
    assert_eq!(machine.trap(instance, "load", &[ValRaw::i32(-1)]).0, Trap::MemoryOutOfBounds);
    assert_eq!(machine.trap(instance, "load", &[ValRaw::i32(65533)]).0, Trap::MemoryOutOfBounds);
    assert_eq!(ok(machine.call(instance, "load", &[ValRaw::i32(65532)])).get_i32(), 0);
    assert_eq!(machine.trap(instance, "stop", &[]), (Trap::UnreachableCodeReached, vec!["stop".into()]));
    for _ in 0..3 {
        let (trap, frames) = machine.trap(instance, "deep", &[]);
        assert_eq!(trap, Trap::StackOverflow);
        assert!(frames.len() > 100 && frames.iter().all(|name| name == "deep"));
    }
    assert_eq!(ok(machine.call(instance, "grow", &[ValRaw::i32(1)])).get_i32(), 1);
    assert_eq!(ok(machine.call(instance, "load", &[ValRaw::i32(65533)])).get_i32(), 0);
}

/// A host function that calls `inner` of instance 0 again, or raises a trap for negative arguments.
unsafe extern "C" fn reenter(context: *mut VmContextHeader, values: *mut ValRaw) {
    // SAFETY: called as a host function; the store is the machine's; values hold one i32.
    unsafe {
        let call_ = HostCall::from_context(context);
        let argument = (*values).get_i32();
        assert_eq!(call_.caller, Some(InstanceId::from_u32(0)));
        let store = call_.store.as_ptr();
        if argument < 0 {
            let frames = backtrace(&*store);
            assert_eq!(frames.len(), 2);
            (*store).raise(Pending::Trap(Trap::UnknownImportCalled, frames));
            return;
        }
        let instance = call_.caller.unwrap_or(InstanceId::from_u32(0));
        let module = (*store).instance(instance).module();
        let Some(EntityIndex::Function(index)) = module.module().export("inner").map(|export| export.entity) else { return };
        let func_ref = (*store).func_ref(FuncId::Wasm(instance, index));
        match call(call_.store, func_ref, values) {
            Ok(()) => *values = ValRaw::i32((*values).get_i32() + 1),
            Err(pending) => (*store).raise(pending),
        }
    }
}

#[test]
fn hosts_are_called_and_call_again() {
    let mut machine = Machine::new();
    let ty = peregrine_wasm::FuncType { params: [peregrine_wasm::ValType::I32].into(), results: [peregrine_wasm::ValType::I32].into() };
    let types = machine.shared.types.register(&ty);
    let host = machine.store.new_host_func(types[0], HostCodes { array: reenter, veneer: None, registers: None }, Box::new(()));
    let instance = ok(machine.instantiate(
        r#"(module (import "host" "f" (func $f (param i32) (result i32)))
            (table 2 funcref) (elem (i32.const 0) func $f $inner)
            (func $inner (export "inner") (param i32) (result i32) i32.const 100 local.get 0 i32.div_u)
            (func $outer (export "outer") (param i32) (result i32) local.get 0 call $f i32.const 1000 i32.add)
            (func (export "indirect") (param i32 i32) (result i32) local.get 0 local.get 1 call_indirect (param i32) (result i32)))"#,
        &[VmImport::Func(FuncId::Host(host))],
    ));
    assert_eq!(ok(machine.call(instance, "outer", &[ValRaw::i32(5)])).get_i32(), 1021);
    assert_eq!(ok(machine.call(instance, "indirect", &[ValRaw::i32(5), ValRaw::i32(0)])).get_i32(), 21);
    assert_eq!(ok(machine.call(instance, "indirect", &[ValRaw::i32(5), ValRaw::i32(1)])).get_i32(), 20);
    assert_eq!(machine.trap(instance, "indirect", &[ValRaw::i32(5), ValRaw::i32(2)]).0, Trap::TableOutOfBounds);
    // A trap two activations deep: both are in the backtrace, and both are unwound.
    assert_eq!(machine.trap(instance, "outer", &[ValRaw::i32(0)]), (Trap::IntegerDivisionByZero, vec!["inner".into(), "outer".into()]));
    assert_eq!(ok(machine.call(instance, "outer", &[ValRaw::i32(50)])).get_i32(), 1003);
}

#[test]
fn a_store_says_when_it_has_dropped_all_that_it_can() {
    let mut machine = Machine::with(|_| ());
    let [first, second] = [(), ()].map(|()| ok(machine.instantiate("(module)", &[])));
    machine.store.drops = super::MOST_DROPS - 1;
    machine.store.drop_instance(first).expect("one more");
    let error = machine.store.drop_instance(second).expect_err("no more").to_string();
    assert!(error.contains("has dropped 16777215 instances"), "{error}");
}

#[test]
fn interruption_and_fuel_stop_loops() {
    let text = r#"(module (func (export "spin") (loop br 0)) (func (export "one") (result i32) i32.const 1))"#;
    let mut machine = Machine::with(|settings| settings.interrupt = true);
    let instance = ok(machine.instantiate(text, &[]));
    let page = Arc::clone(machine.store.interrupt_page().expect("asked for"));
    let watchdog = std::thread::spawn({
        let page = Arc::clone(&page);
        move || {
            std::thread::sleep(std::time::Duration::from_millis(20));
            page.raise(Cause::Time).tell()
        }
    });
    assert_eq!(machine.trap(instance, "spin", &[]).0, Trap::Interrupt);
    watchdog.join().expect("no panic").expect("protected");
    page.clear(Cause::Time).expect("accessible again");
    assert_eq!(ok(machine.call(instance, "one", &[])).get_i32(), 1);

    let mut machine = Machine::with(|settings| settings.fuel = true);
    let instance = ok(machine.instantiate(text, &[]));
    machine.store.context.fuel_consumed = -10_000;
    assert_eq!(machine.trap(instance, "spin", &[]).0, Trap::OutOfFuel);
    machine.store.context.fuel_consumed = -100;
    assert_eq!(ok(machine.call(instance, "one", &[])).get_i32(), 1);
    assert!(machine.store.context.fuel_consumed > -100);
}

#[test]
fn what_is_prepared_of_tables_does_not_grow_with_their_size() {
    let mut machine = Machine::new();
    let instance = ok(machine.instantiate(
        r#"(module (table 10000000 funcref) (table 10000000 funcref)
            (func $f (result i32) i32.const 7) (type $t (func (result i32)))
            (elem (i32.const 5) $f) (elem (i32.const 9999999) $f) (elem (table 1) (i32.const 9999998) func $f)
            (func (export "low") (result i32) (call_indirect 0 (type $t) (i32.const 5)))
            (func (export "high") (result i32) (call_indirect 0 (type $t) (i32.const 9999999)))
            (func (export "other") (result i32) (call_indirect 1 (type $t) (i32.const 9999998))))"#,
        &[],
    ));
    let module = machine.store.instance(instance).module();
    let prepared = [0, 1].map(|table| module.lazy_table(peregrine_wasm::TableIndex::from_u32(table)).len());
    assert_eq!((prepared, module.lazy_segments()), ([6, 0], 1));
    for name in ["low", "high", "other"] {
        assert_eq!(ok(machine.call(instance, name, &[])).get_i32(), 7, "{name}");
    }
}

/// A fault in guest code at an address that is not the guest's is a fault of the engine or of a compiler: it ends the process, as it would
/// without an engine, and is no trap that an embedder takes for the guest's doing.
#[test]
fn a_fault_at_a_foreign_address_is_no_trap() {
    const INSIDE: &str = "PEREGRINE_TEST_FOREIGN_FAULT";
    let text = r#"(module (memory 1) (func (export "load") (param i32) (result i32) local.get 0 i32.load))"#;
    if std::env::var_os(INSIDE).is_none() {
        // In the guard of the memory it is a trap.
        let mut machine = Machine::new();
        let instance = ok(machine.instantiate(text, &[]));
        assert_eq!(machine.trap(instance, "load", &[ValRaw::i32(65536)]).0, Trap::MemoryOutOfBounds);
        let own = std::env::current_exe().expect("the test has a file");
        let mut child = std::process::Command::new(own);
        child.args(["--exact", "vm::tests::a_fault_at_a_foreign_address_is_no_trap"]).env(INSIDE, "1");
        let status = child.output().expect("the test can run again").status;
        let signal = std::os::unix::process::ExitStatusExt::signal(&status);
        assert_eq!(signal, Some(11), "the child ended with {status}");
        return;
    }
    let mut machine = Machine::new();
    let instance = ok(machine.instantiate(text, &[]));
    let foreign = peregrine_sys::pages::Reservation::new(1 << 20).expect("there is address space");
    let cell = machine.store.instance(instance).memory(peregrine_wasm::DefinedMemoryIndex::from_u32(0)).cell();
    // As if a compiler had taken a wrong base.
    // SAFETY: the cell is part of the instance's context, and no guest runs.
    unsafe { (*cell.as_ptr()).base = foreign.ptr() as u64 };
    machine.call(instance, "load", &[ValRaw::i32(0)]).err();
}

#[test]
fn a_slot_whose_reset_failed_is_never_used_again() {
    use super::alloc::backing::faults::fail_after;
    let engine = crate::Engine::default();
    let compiler = ImageCompiler::new(Arc::new(Optimizing));
    let wasm = compiler.to_binary(b"(module (memory 1) (table 4 funcref))").expect("good text");
    let target = compiler.target(None).expect("this machine is supported");
    let settings = Settings { target, ..engine.whole_settings().clone() };
    let image = compiler.compile(&wasm, &settings, &()).expect("a valid module");
    // SAFETY: the image was just made.
    let module = unsafe { crate::Module::deserialize(&engine, &image) }.expect("a good image");
    let make = || {
        crate::Instance::new(crate::Store::new(&engine, ()), &module, &[]).expect("an instance");
    };
    let slots = || {
        let metrics = engine.metrics();
        (metrics.slots_cold, metrics.slots_warm, metrics.slots_idle, metrics.slots_quarantined)
    };
    (0..3).for_each(|_| make());
    assert_eq!(slots(), (1, 2, 1, 0));
    // The memory's reset fails, then the table's.
    fail_after(0);
    make();
    assert_eq!(slots(), (1, 3, 0, 1));
    fail_after(1);
    make();
    assert_eq!(slots(), (2, 3, 0, 2));
    (0..2).for_each(|_| make());
    assert_eq!(slots(), (3, 4, 1, 2));
    assert_eq!(engine.metrics().slots_idle_reserved_bytes, (1 << 16) + (256 << 20), "of the memory and of the table");
}

/// The thread that has the turn goes on only after the fork: if the fork waited for it, this would not end.
#[test]
fn a_fork_does_not_wait_for_what_takes_long_and_the_child_does_it_itself() {
    use crate::made_once::{MadeOnce, Turn};
    use std::sync::mpsc::channel;
    let (value, turn) = (MadeOnce::default(), Turn::default());
    let ((at_it, is_at_it), (go_on, may_go_on)) = (channel(), channel());
    std::thread::scope(|scope| {
        let (value, turn) = (&value, &turn);
        scope.spawn(move || {
            let _turn = turn.take();
            let _ = value.get_or_make(|| {
                at_it.send(()).expect("somebody waits for it");
                may_go_on.recv().expect("it comes after the fork");
                Ok::<_, ()>(1)
            });
        });
        is_at_it.recv().expect("the thread gets there");
        // SAFETY: the child has one thread, and uses nothing that another one could have locked.
        let child = unsafe { libc::fork() };
        if child == 0 {
            drop(turn.take());
            let made = *value.get_or_make(|| Ok::<_, ()>(7)).unwrap_or(&8);
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(made) };
        }
        go_on.send(()).expect("the thread waits for it");
        let mut status = 0;
        // SAFETY: the child is ours and waited for once.
        assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
        assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 7, "{status:#x}");
    });
    assert_eq!(value.get(), Some(&1));
}

/// Two machines whose interrupt pages are of one block, each with an instance of a module that loops.
fn neighbours() -> [(Machine, InstanceId); 2] {
    let text = r#"(module (func (export "loop") (param i32)
        (loop (call $f) (br_if 0 (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))) (func $f (loop)))"#;
    let make = || {
        let mut machine = Machine::with(|settings| settings.interrupt = true);
        let instance = machine.instantiate(text, &[]).ok().unwrap();
        // From now on its code may look.
        machine.call(instance, "loop", &[ValRaw::i32(1)]).ok().unwrap();
        (machine, instance)
    };
    let page = |machine: &Machine| machine.store.interrupt_page().unwrap().address();
    let mut all = vec![make()];
    while all.len() < 200 {
        let next = make();
        if let Some(near) = all.iter().position(|(machine, _)| page(machine).abs_diff(page(&next.0)) < 16 * 4096) {
            return [all.swap_remove(near), next];
        }
        all.push(next);
    }
    panic!("pages are taken out of blocks");
}

#[test]
fn looks_in_vain_are_counted() {
    let [(first, _), (mut second, instance)] = neighbours();
    let looks = |machine: &Machine| machine.shared.counters.get(Counting::LooksInVain);
    second.call(instance, "loop", &[ValRaw::i32(100)]).ok().unwrap();
    assert_eq!(looks(&second), 0);
    let raised = without_mappings(false, || first.store.interrupt_page().unwrap().raise(Cause::Epoch));
    assert!(raised.tell().is_ok());
    second.call(instance, "loop", &[ValRaw::i32(100)]).ok().unwrap();
    assert!(looks(&second) >= 100, "{}", looks(&second));
    assert_eq!(looks(&first), 0);
}

#[test]
fn interruptions_that_fail_are_counted() {
    let [(first, _), _second] = neighbours();
    let before = failed_interruptions();
    let raised = without_mappings(true, || first.store.interrupt_page().unwrap().raise(Cause::Epoch));
    assert!(raised.tell().is_err());
    assert!(failed_interruptions() > before);
}
