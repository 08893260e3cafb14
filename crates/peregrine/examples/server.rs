//! A server of many tenants on tokio: each request runs its tenant's code in a fresh instance that is limited in memory and time, and a
//! tenant that computes for long lets the others run meanwhile.
//!
//! `cargo run --release --example server` serves a few requests to itself, over TCP, and ends.

use peregrine::{
    Budget, Caller, Config, Context, Engine, Error, InstancePre, Linker, Module, Result, Store, StoreLimits, StoreLimitsBuilder, Trap,
};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// What tenants upload: `handle` gets a number and may wait for the host.
const TENANTS: [(&str, &str); 3] = [
    ("square", r#"(module (func (export "handle") (param i64) (result i64) (i64.mul (local.get 0) (local.get 0))))"#),
    (
        "slow",
        r#"(module (import "host" "lookup" (func $f (param i64) (result i64))) (func (export "handle") (param i64) (result i64) (call $f (local.get 0))))"#,
    ),
    (
        "evil",
        r#"(module (memory 1) (func (export "handle") (param i64) (result i64) (drop (memory.grow (i32.const 9999))) (loop (br 0)) unreachable))"#,
    ),
];

/// What the host keeps about a request under way.
struct Request {
    limits: StoreLimits,
    lookups: u32,
}

/// The most that a request may execute, in units of fuel: some milliseconds.
const FUEL: u64 = 10_000_000;
/// After so much fuel a request lets others run on its thread.
const TURN: u64 = 100_000;

struct Server {
    engine: Engine,
    tenants: HashMap<&'static str, InstancePre<Request>>,
}

impl Server {
    fn new() -> Result<Self> {
        let engine = Engine::new(Config::new().consume_fuel(true).budget(Budget::untrusted()))?;
        let mut linker = Linker::new(&engine);
        linker.func_wrap_async("host", "lookup", |mut caller: Caller<'_, Request>, (key,): (i64,)| {
            Box::new(async move {
                caller.data_mut().lookups += 1;
                tokio::time::sleep(Duration::from_millis(5)).await;
                key + 1000
            })
        })?;
        // Compiled and linked once, when it is uploaded; a request only instantiates.
        let tenant = |(name, text)| Ok((name, linker.instantiate_pre(&Module::new(&engine, text)?)?));
        Ok(Self { tenants: TENANTS.into_iter().map(tenant).collect::<Result<_>>()?, engine })
    }

    /// Runs the code of `tenant` for one request. Dropping the future ends it.
    async fn run(&self, tenant: &str, argument: i64) -> Result<i64> {
        let tenant = self.tenants.get(tenant).with_context(|| format!("there is no tenant `{tenant}`"))?;
        let limits = StoreLimitsBuilder::new().memory_size(1 << 20).instances(1).build();
        let mut store = Store::new(&self.engine, Request { limits, lookups: 0 });
        store.limiter(|request| &mut request.limits);
        store.set_fuel(FUEL)?;
        store.fuel_async_yield_interval(Some(TURN))?;
        let instance = tenant.instantiate_async(&mut store).await?;
        instance.get_typed_func::<i64, i64>(&mut store, "handle")?.call_async(&mut store, argument).await
    }

    /// Serves requests of one connection: lines with a tenant and a number.
    async fn serve(self: Arc<Self>, stream: TcpStream) -> Result<()> {
        let (input, mut output) = stream.into_split();
        let mut lines = BufReader::new(input).lines();
        while let Some(line) = lines.next_line().await? {
            let (tenant, argument) = line.split_once(' ').context("expected a tenant and a number")?;
            let reply = match self.run(tenant, argument.parse()?).await {
                Ok(value) => format!("{value}\n"),
                Err(error) => match error.downcast_ref::<Trap>() {
                    Some(trap) => format!("stopped: {trap}\n"),
                    None => format!("failed: {error}\n"),
                },
            };
            output.write_all(reply.as_bytes()).await?;
        }
        Ok(())
    }
}

async fn request(address: std::net::SocketAddr, line: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(line.as_bytes()).await?;
    stream.shutdown().await?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await?;
    Ok(reply.trim().to_owned())
}

async fn serve_and_ask() -> Result<()> {
    let server = Arc::new(Server::new()?);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let accepting = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(Arc::clone(&server).serve(stream));
        }
    });
    let asked = ["square 12", "evil 1", "slow 7", "nobody 1", "square 5"];
    let tasks: Vec<_> = asked.map(|line| tokio::spawn(async move { request(address, &format!("{line}\n")).await })).into();
    let mut replies = Vec::new();
    for (line, task) in asked.iter().zip(tasks) {
        let reply = task.await.map_err(Error::new)??;
        println!("{line:10} -> {reply}");
        replies.push(reply);
    }
    accepting.abort();
    assert_eq!((&*replies[0], &*replies[2], &*replies[4]), ("144", "1007", "25"));
    assert!(replies[1].starts_with("stopped: ") && replies[1].contains("fuel"), "{}", replies[1]);
    assert!(replies[3].contains("no tenant `nobody`"));
    Ok(())
}

/// Runs the example, on two threads.
pub fn main() -> Result<()> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(serve_and_ask())
}
