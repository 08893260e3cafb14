//! What an idle instance takes of the machine, with a store of its own and many others beside it. Alone in its process, as it looks at all of
//! it.

mod process;

use peregrine::*;

/// Instances that are alive at once.
const COUNT: u64 = 10_000;

/// What is done with an instance before it is idle.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    Never,
    Called,
    CalledAsync,
}

/// Bytes of address space, and resident bytes, for each instance of the module `text` with its store.
fn each(text: &str, used: Use) -> Result<[u64; 2]> {
    let engine = Engine::default();
    let module = Module::new(&engine, text)?;
    let pre = Linker::<()>::new(&engine).instantiate_pre(&module)?;
    let mut stores = Vec::with_capacity(COUNT as usize);
    let before = process::bytes();
    for _ in 0..COUNT {
        let mut store = Store::new(&engine, ());
        let instance = pre.instantiate(&mut store)?;
        if used != Use::Never {
            let f = instance.get_typed_func::<(), ()>(&mut store, "f")?;
            if used == Use::CalledAsync {
                let mut call = std::pin::pin!(f.call_async(&mut store, ()));
                let task = &mut std::task::Context::from_waker(std::task::Waker::noop());
                assert!(matches!(call.as_mut().poll(task), std::task::Poll::Ready(Ok(()))));
            } else {
                f.call(&mut store, ())?;
            }
        }
        stores.push(store);
    }
    let after = process::bytes();
    Ok([0, 1].map(|at| after[at].saturating_sub(before[at]) / COUNT))
}

#[test]
fn an_idle_instance_takes_little() -> Result<()> {
    process::maps_nothing_for_threads();
    let data = "x".repeat(64 << 10);
    // Its content is mapped and not touched.
    let text = format!(r#"(module (memory 1) (data (i32.const 0) "{data}") (func (export "f")))"#);
    for (used, how) in [(Use::Never, "never called"), (Use::Called, "called"), (Use::CalledAsync, "called as a future")] {
        let [address_bytes, resident_bytes] = each(&text, used)?;
        assert!(resident_bytes < 2_100, "{resident_bytes} bytes are resident, {how}");
        assert!(address_bytes < 72 << 10, "{address_bytes} bytes of address space, {how}");
    }
    Ok(())
}
