//! What programs that collect spans are told: when modules are compiled and instantiated, and of what.

mod listening;

use listening::{Listener, Told};
use peregrine::*;
use std::sync::{Arc, Mutex};

#[test]
fn modules_and_instances_are_spans() -> Result<()> {
    let wasm = wat::parse_str(r#"(module $plugin (func (export "run")))"#)?;
    // In the order in which they begin, and how many are entered and left.
    let spans = Arc::new(Mutex::new((Vec::new(), 0, 0)));
    let noted = Arc::clone(&spans);
    let listener = Listener::new(
        |metadata| metadata.is_span(),
        move |told| {
            let mut noted = noted.lock().expect("nobody panicked");
            match told {
                Told::Span(text) => noted.0.push(text),
                Told::Entered => noted.1 += 1,
                Told::Left => noted.2 += 1,
                Told::Event(message) => unreachable!("events are not wanted: {message}"),
            }
        },
    );
    tracing::subscriber::with_default(listener, || {
        for strategy in [Strategy::Tiered, Strategy::Cranelift] {
            let engine = Engine::new(Config::new().strategy(strategy))?;
            let module = Module::new(&engine, &wasm)?;
            Instance::new(Store::new(&engine, ()), &module, &[])?;
        }
        Ok::<(), Error>(())
    })?;
    let bytes = wasm.len();
    let (begun, entered, left) = &*spans.lock().expect("nobody panicked");
    let expected = [
        format!("compile wasm_bytes={bytes} one_by_one=true"),
        "instantiate module=\"plugin\"".to_owned(),
        format!("compile wasm_bytes={bytes}"),
        "instantiate module=\"plugin\"".to_owned(),
    ];
    assert_eq!(*begun, expected);
    assert_eq!((*entered, *left), (4, 4));
    Ok(())
}
