//! A profiler of guests that the embedder drives: it samples the calls that are under way whenever it is told to, and writes the profile in
//! the processed format of the Firefox Profiler (version 48), which <https://profiler.firefox.com> shows.

use crate::context::AsContext;
use crate::error::{Context, Result, ensure};
use crate::vm::{self, LoadedModule, RawFrame};
use crate::{CallHook, Engine, Module, symbols};
use peregrine_wasm::{FuncIndex, Index};
use std::collections::HashMap;
use std::fmt;
use std::fmt::Write as _;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Collects samples of the calls that are under way in a store.
///
/// Who calls [`sample`](Self::sample) decides when: an epoch callback (every interval of a timer), a call hook, a host function.
///
/// ```
/// use peregrine::{AsContext, Caller, Engine, GuestProfiler, Linker, Module, Store};
/// use std::time::Duration;
///
/// let engine = Engine::default();
/// let module = Module::new(
///     &engine,
///     r#"(module (import "host" "tick" (func $tick)) (func $work (call $tick)) (func (export "run") (call $work)))"#,
/// )?;
/// let profiler = GuestProfiler::new(&engine, "example", Duration::from_millis(1), [("example".to_owned(), module.clone())])?;
/// let mut linker = Linker::new(&engine);
/// linker.func_wrap("host", "tick", |mut caller: Caller<'_, Option<GuestProfiler>>| {
///     // The profiler is in the store that it samples: it is taken out meanwhile.
///     let mut profiler = caller.data_mut().take().expect("it is there");
///     profiler.sample(caller.as_context(), Duration::ZERO);
///     *caller.data_mut() = Some(profiler);
/// })?;
/// let mut store = Store::new(&engine, Some(profiler));
/// linker.instantiate(&mut store, &module)?.get_typed_func::<(), ()>(&mut store, "run")?.call(&mut store, ())?;
/// let mut file = Vec::new();
/// store.into_data().unwrap().finish(&mut file)?;
/// assert!(String::from_utf8(file)?.contains("work"));
/// # Ok::<(), peregrine::Error>(())
/// ```
pub struct GuestProfiler {
    name: String,
    interval: Duration,
    started: Instant,
    started_at: SystemTime,
    modules: Vec<(String, Arc<LoadedModule>)>,
    strings: Strings,
    /// Names of functions, by number.
    functions: Vec<u32>,
    function_numbers: HashMap<(usize, FuncIndex), Option<u32>>,
    /// Stacks by number: the rest of the stack, and the function on top.
    stacks: Vec<(Option<u32>, u32)>,
    stack_numbers: HashMap<(Option<u32>, u32), u32>,
    samples: Vec<Sample>,
    /// Crossings that have begun.
    open: Vec<(CallHook, Instant)>,
    markers: Vec<Marker>,
}

struct Sample {
    stack: Option<u32>,
    time: Duration,
    cpu: Duration,
}

struct Marker {
    name: &'static str,
    start: Duration,
    end: Duration,
}

#[derive(Default)]
struct Strings {
    all: Vec<String>,
    numbers: HashMap<String, u32>,
}

impl Strings {
    fn number(&mut self, text: &str) -> u32 {
        if let Some(number) = self.numbers.get(text) {
            return *number;
        }
        let number = self.all.len() as u32;
        self.all.push(text.to_owned());
        self.numbers.insert(text.to_owned(), number);
        number
    }
}

impl GuestProfiler {
    /// A profile called `module_name` of guests with these modules, each under a name. Calls in other modules are left out. `interval` is
    /// how often samples will be taken, about.
    ///
    /// # Errors
    ///
    /// If a module belongs to another engine.
    pub fn new(
        engine: &Engine,
        module_name: &str,
        interval: Duration,
        modules: impl IntoIterator<Item = (String, Module)>,
    ) -> Result<Self> {
        let modules: Vec<(String, Module)> = modules.into_iter().collect();
        for (name, module) in &modules {
            ensure!(Engine::same(module.engine(), engine), "the module `{name}` to be profiled belongs to another engine");
        }
        Ok(Self {
            name: module_name.to_owned(),
            interval,
            started: Instant::now(),
            started_at: SystemTime::now(),
            modules: modules.into_iter().map(|(name, module)| (name, Arc::clone(module.loaded()))).collect(),
            strings: Strings::default(),
            functions: Vec::new(),
            function_numbers: HashMap::new(),
            stacks: Vec::new(),
            stack_numbers: HashMap::new(),
            samples: Vec::new(),
            open: Vec::new(),
            markers: Vec::new(),
        })
    }

    /// Adds a sample: the calls that are under way in `store` now. `delta` is the processor's time that the guest used since the last
    /// sample; zero if it is not known.
    pub fn sample(&mut self, store: impl AsContext, delta: Duration) {
        let time = self.started.elapsed();
        let frames = vm::backtrace(&store.as_context().0.opaque.vm);
        let mut stack = None;
        for frame in frames.iter().rev() {
            let Some(function) = self.function(frame) else { continue };
            let next = self.stacks.len() as u32;
            let number = *self.stack_numbers.entry((stack, function)).or_insert(next);
            if number == next {
                self.stacks.push((stack, function));
            }
            stack = Some(number);
        }
        self.samples.push(Sample { stack, time, cpu: delta });
    }

    /// Notes a crossing between guest and host, to be shown above the samples. For [`Store::call_hook`](crate::Store::call_hook).
    pub fn call_hook(&mut self, store: impl AsContext, kind: CallHook) {
        let _ = store;
        let now = Instant::now();
        match kind {
            CallHook::CallingWasm | CallHook::CallingHost => self.open.push((kind, now)),
            CallHook::ReturningFromWasm | CallHook::ReturningFromHost => {
                let (name, begin) = match kind {
                    CallHook::ReturningFromWasm => ("wasm", CallHook::CallingWasm),
                    _ => ("host", CallHook::CallingHost),
                };
                if let Some((_, start)) = self.open.pop_if(|(open, _)| *open == begin) {
                    let since_start = |time: Instant| time.saturating_duration_since(self.started);
                    self.markers.push(Marker { name, start: since_start(start), end: since_start(now) });
                }
            }
        }
    }

    /// The number of a frame's function; `None` if it is of no module of the profile.
    fn function(&mut self, frame: &RawFrame) -> Option<u32> {
        let module = Arc::as_ptr(&frame.module) as usize;
        if let Some(number) = self.function_numbers.get(&(module, frame.function)) {
            return *number;
        }
        let listed = self.modules.iter().find(|(_, listed)| Arc::ptr_eq(listed, &frame.module));
        let number = listed.map(|(module_name, loaded)| {
            let name = match loaded.function_name(frame.function) {
                Some(name) => symbols::demangle(name),
                None => format!("<wasm function {}>", frame.function.as_usize()),
            };
            let several = self.modules.len() > 1;
            self.functions.push(self.strings.number(&if several { format!("{module_name}!{name}") } else { name }));
            self.functions.len() as u32 - 1
        });
        self.function_numbers.insert((module, frame.function), number);
        number
    }

    /// Writes the profile, as JSON.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn finish(mut self, mut output: impl Write) -> Result<()> {
        let json = self.json();
        output.write_all(json.as_bytes()).and_then(|()| output.flush()).context("failed to write the profile")
    }

    fn json(&mut self) -> String {
        let start = self.started_at.duration_since(UNIX_EPOCH).unwrap_or_default();
        let marker_names: Vec<u32> = self.markers.iter().map(|marker| self.strings.number(marker.name)).collect();
        let mut json = String::new();
        json.push_str("{\"meta\":{\"version\":24,\"preprocessedProfileVersion\":48,\"processType\":0,\"stackwalk\":1,\"debug\":false,");
        let _ = write!(json, "\"interval\":{},\"startTime\":{},\"product\":{},", millis(self.interval), millis(start), text(&self.name));
        json.push_str("\"symbolicated\":true,\"sampleUnits\":{\"time\":\"ms\",\"eventDelay\":\"ms\",\"threadCPUDelta\":\"µs\"},");
        json.push_str("\"categories\":[{\"name\":\"Other\",\"color\":\"grey\",\"subcategories\":[\"Other\"]},");
        json.push_str("{\"name\":\"Guest\",\"color\":\"blue\",\"subcategories\":[\"Other\"]}],");
        json.push_str("\"extensions\":{\"length\":0,\"baseURL\":[],\"id\":[],\"name\":[]},");
        json.push_str("\"markerSchema\":[{\"name\":\"Crossing\",\"display\":[\"marker-chart\",\"marker-table\",\"timeline-overview\"],\"data\":[]}]},");
        json.push_str("\"libs\":[],\"threads\":[{\"processType\":\"default\",\"processName\":");
        let _ = write!(json, "{},\"name\":{},", text(&self.name), text(&self.name));
        let _ = write!(json, "\"isMainThread\":true,\"pid\":\"{}\",\"tid\":1,", std::process::id());
        json.push_str(
            "\"processStartupTime\":0,\"processShutdownTime\":null,\"registerTime\":0,\"unregisterTime\":null,\"pausedRanges\":[],",
        );

        let functions = self.functions.len();
        let _ = write!(json, "\"frameTable\":{{\"length\":{functions},");
        columns(&mut json, functions, &[("address", "-1"), ("inlineDepth", "0"), ("category", "1"), ("subcategory", "0")]);
        columns(&mut json, functions, &[("nativeSymbol", "null"), ("innerWindowID", "null"), ("implementation", "null")]);
        columns(&mut json, functions, &[("line", "null"), ("column", "null")]);
        let _ = write!(json, "\"func\":{}}},", list(0..functions));
        let _ = write!(json, "\"funcTable\":{{\"length\":{functions},");
        columns(&mut json, functions, &[("isJS", "false"), ("relevantForJS", "false"), ("resource", "-1")]);
        columns(&mut json, functions, &[("fileName", "null"), ("lineNumber", "null"), ("columnNumber", "null")]);
        let _ = write!(json, "\"name\":{}}},", list(&self.functions));

        let stacks = self.stacks.len();
        let _ = write!(json, "\"stackTable\":{{\"length\":{stacks},");
        columns(&mut json, stacks, &[("category", "1"), ("subcategory", "0")]);
        let prefixes = self.stacks.iter().map(|(prefix, _)| prefix.map_or("null".to_owned(), |prefix| prefix.to_string()));
        let _ = write!(json, "\"prefix\":{},\"frame\":{}}},", list(prefixes), list(self.stacks.iter().map(|(_, frame)| frame)));

        let samples = &self.samples;
        let _ = write!(json, "\"samples\":{{\"length\":{},\"weightType\":\"samples\",", samples.len());
        columns(&mut json, samples.len(), &[("weight", "1")]);
        let tops = samples.iter().map(|sample| sample.stack.map_or("null".to_owned(), |stack| stack.to_string()));
        let _ = write!(json, "\"stack\":{},\"time\":{},", list(tops), list(samples.iter().map(|sample| millis(sample.time))));
        let _ = write!(json, "\"threadCPUDelta\":{}}},", list(samples.iter().map(|sample| sample.cpu.as_micros())));

        let markers = &self.markers;
        let _ = write!(json, "\"markers\":{{\"length\":{},", markers.len());
        columns(&mut json, markers.len(), &[("category", "0"), ("phase", "1"), ("data", "{\"type\":\"Crossing\"}")]);
        let _ = write!(json, "\"name\":{},", list(marker_names));
        let starts = list(markers.iter().map(|marker| millis(marker.start)));
        let _ = write!(json, "\"startTime\":{starts},\"endTime\":{}}},", list(markers.iter().map(|marker| millis(marker.end))));

        json.push_str("\"nativeSymbols\":{\"length\":0,\"address\":[],\"functionSize\":[],\"libIndex\":[],\"name\":[]},");
        json.push_str("\"resourceTable\":{\"length\":0,\"lib\":[],\"name\":[],\"host\":[],\"type\":[]},");
        let _ = write!(json, "\"stringArray\":{}}}]}}", list(self.strings.all.iter().map(|string| text(string))));
        json
    }
}

impl fmt::Debug for GuestProfiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuestProfiler").field("name", &self.name).field("samples", &self.samples.len()).finish_non_exhaustive()
    }
}

/// Columns that hold the same value in every row. Each ends with a comma.
fn columns(json: &mut String, rows: usize, columns: &[(&str, &str)]) {
    for (name, value) in columns {
        let _ = write!(json, "\"{name}\":{},", list(std::iter::repeat_n(value, rows)));
    }
}

fn list<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    format!("[{}]", items.join(","))
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// A string in JSON.
fn text(string: &str) -> String {
    let mut quoted = String::from('"');
    for character in string.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            control if control < ' ' => {
                let _ = write!(quoted, "\\u{:04x}", u32::from(control));
            }
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_quoted() {
        assert_eq!(text("a\"b\\c\n\u{1}é"), "\"a\\\"b\\\\c\\u000a\\u0001é\"");
    }
}
