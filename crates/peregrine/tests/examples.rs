//! Every example runs to its end; each asserts what it shows.

#[path = "../examples/async_host.rs"]
mod async_host;
#[path = "../examples/hello.rs"]
mod hello;
#[path = "../examples/limits.rs"]
mod limits;
#[path = "../examples/plugins.rs"]
mod plugins;
#[path = "../examples/precompile.rs"]
mod precompile;
#[path = "../examples/profile_guest.rs"]
mod profile_guest;
#[path = "../examples/server.rs"]
mod server;
#[path = "../examples/streaming.rs"]
mod streaming;
#[path = "../examples/threads.rs"]
mod threads;

use peregrine::Result;

#[test]
fn hello_world() -> Result<()> {
    hello::main()
}

#[test]
fn plugins_with_host_state() -> Result<()> {
    plugins::main()
}

#[test]
fn limits_and_interruption() -> Result<()> {
    limits::main()
}

#[test]
fn async_host_functions() -> Result<()> {
    async_host::main()
}

#[test]
fn shared_memory_and_threads() -> Result<()> {
    threads::main()
}

#[test]
fn precompile_and_load() -> Result<()> {
    precompile::main()
}

#[test]
fn streaming_through_linear_memory() -> Result<()> {
    streaming::main()
}

#[test]
fn profiling_a_guest() -> Result<()> {
    profile_guest::main()
}

#[test]
fn a_server_of_many_tenants() -> Result<()> {
    server::main()
}
