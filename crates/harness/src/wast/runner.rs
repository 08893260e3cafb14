//! Executes directives one after the other.

use super::{Failure, Outcome, WastOptions, messages, spectest, values};
use peregrine::{Engine, Error, Extern, Instance, Linker, Module, Result, Store, Trap, Val};
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use wast::core::WastRetCore;
use wast::token::Id;
use wast::{QuoteWat, WastArg, WastDirective, WastExecute, WastInvoke, WastRet, Wat};

/// The state of one script.
pub(super) struct Runner<'a> {
    engine: Engine,
    store: Store<()>,
    linker: Linker<()>,
    /// The instance that directives without a name mean.
    current: Option<Instance>,
    instances: HashMap<String, Instance>,
    /// The module that `module instance` without a name means.
    current_definition: Option<Module>,
    definitions: HashMap<String, Module>,
    options: &'a WastOptions<'a>,
}

/// What running something gave: a failure of the script's machinery is the outer error, one of the guest the inner.
type Executed = Result<Result<Vec<Val>>>;

impl<'a> Runner<'a> {
    /// A fresh store with `spectest`.
    pub(super) fn new(engine: &Engine, options: &'a WastOptions<'a>) -> Result<Self> {
        let mut store = Store::new(engine, ());
        if let Some(prepare) = options.prepare_store {
            prepare(&mut store);
        }
        let mut linker = Linker::new(engine);
        linker.allow_shadowing(true);
        spectest::define(&mut linker, &mut store, options.print)?;
        Ok(Self {
            engine: engine.clone(),
            store,
            linker,
            current: None,
            instances: HashMap::new(),
            current_definition: None,
            definitions: HashMap::new(),
            options,
        })
    }

    /// Runs all directives; what fails is recorded and the next one follows.
    pub(super) fn run(mut self, file: &str, text: &str, directives: Vec<WastDirective<'_>>) -> Outcome {
        let mut outcome = Outcome::default();
        for directive in directives {
            let (line, column) = directive.span().linecol_in(text);
            outcome.directives += 1;
            let message = match catch_unwind(AssertUnwindSafe(|| self.directive(directive))) {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => format!("{error:#}"),
                Err(payload) => format!("panicked: {}", panic_text(&*payload)),
            };
            outcome.failures.push(Failure { file: file.to_string(), line: line + 1, column: column + 1, message });
        }
        outcome
    }

    fn directive(&mut self, directive: WastDirective<'_>) -> Result<()> {
        match directive {
            WastDirective::Module(mut wat) => {
                let name = wat.name().map(name_of);
                let module = self.compile(&mut wat)?;
                self.instantiate_as(name, &module)
            }
            WastDirective::ModuleDefinition(mut wat) => {
                let name = wat.name().map(name_of);
                let module = self.compile(&mut wat)?;
                if let Some(name) = name {
                    self.definitions.insert(name, module.clone());
                }
                self.current_definition = Some(module);
                Ok(())
            }
            WastDirective::ModuleInstance { instance, module, .. } => {
                let definition = match module {
                    Some(id) => self.definitions.get(id.name()),
                    None => self.current_definition.as_ref(),
                };
                let definition = definition.cloned().ok_or_else(|| Error::msg("no module of that name is defined"))?;
                self.instantiate_as(instance.map(name_of), &definition)
            }
            WastDirective::Register { name, module, .. } => {
                let instance = self.instance(module)?;
                self.linker.instance(&mut self.store, name, instance)?;
                Ok(())
            }
            WastDirective::Invoke(invoke) => self.invoke(&invoke)?.map(|_| ()),
            WastDirective::AssertReturn { exec, results, .. } => {
                let found = self.execute(exec)?.map_err(|error| Error::msg(format!("expected a return, found the error: {error:#}")))?;
                self.compare(&found, &results)
            }
            WastDirective::AssertTrap { exec, message, .. } => {
                let executed = self.execute(exec)?;
                self.expect_trap(executed, message)
            }
            WastDirective::AssertExhaustion { call, message, .. } => {
                let executed = self.invoke(&call)?;
                self.expect_trap(executed, message)
            }
            WastDirective::AssertInvalid { mut module, message, .. }
            | WastDirective::AssertMalformed { mut module, message, .. }
            | WastDirective::AssertInvalidCustom { mut module, message, .. }
            | WastDirective::AssertMalformedCustom { mut module, message, .. } => match self.compile(&mut module) {
                Ok(_) => Err(Error::msg(format!("expected a refusal of the module ({message}), and it was accepted"))),
                Err(_) => Ok(()),
            },
            WastDirective::AssertUnlinkable { mut module, message, .. } => {
                let module = self.compile_wat(&mut module)?;
                match self.linker.instantiate(&mut self.store, &module) {
                    Ok(_) => Err(Error::msg(format!("expected the link error `{message}`, and the module was instantiated"))),
                    Err(error) => self.expect_message(&error, message, "link error"),
                }
            }
            WastDirective::AssertException { .. } => Err(unsupported("assert_exception")),
            WastDirective::AssertSuspension { .. } => Err(unsupported("assert_suspension")),
            WastDirective::Thread(_) => Err(unsupported("thread")),
            WastDirective::Wait { .. } => Err(unsupported("wait")),
        }
    }

    fn compile(&self, wat: &mut QuoteWat<'_>) -> Result<Module> {
        if matches!(wat, QuoteWat::QuoteComponent(..) | QuoteWat::Wat(Wat::Component(_))) {
            return Err(unsupported("component"));
        }
        let bytes = wat.encode().map_err(|error| Error::msg(error.message()))?;
        self.module(&bytes)
    }

    fn compile_wat(&self, wat: &mut Wat<'_>) -> Result<Module> {
        if matches!(wat, Wat::Component(_)) {
            return Err(unsupported("component"));
        }
        let bytes = wat.encode().map_err(|error| Error::msg(error.message()))?;
        self.module(&bytes)
    }

    fn module(&self, bytes: &[u8]) -> Result<Module> {
        match self.options.make_module {
            Some(make) => make(&self.engine, bytes),
            None => Module::new(&self.engine, bytes),
        }
    }

    fn instantiate_as(&mut self, name: Option<String>, module: &Module) -> Result<()> {
        let instance = self.linker.instantiate(&mut self.store, module)?;
        if let Some(name) = name {
            self.instances.insert(name, instance);
        }
        self.current = Some(instance);
        Ok(())
    }

    fn instance(&self, id: Option<Id<'_>>) -> Result<Instance> {
        let found = match id {
            Some(id) => self.instances.get(id.name()).copied(),
            None => self.current,
        };
        found.ok_or_else(|| match id {
            Some(id) => Error::msg(format!("there is no instance `${}`", id.name())),
            None => Error::msg("there is no instance yet"),
        })
    }

    fn execute(&mut self, exec: WastExecute<'_>) -> Executed {
        match exec {
            WastExecute::Invoke(invoke) => self.invoke(&invoke),
            WastExecute::Wat(mut wat) => {
                let module = self.compile_wat(&mut wat)?;
                Ok(self.linker.instantiate(&mut self.store, &module).map(|_| Vec::new()))
            }
            WastExecute::Get { module, global, .. } => {
                let instance = self.instance(module)?;
                match instance.get_export(&mut self.store, global) {
                    Some(Extern::Global(found)) => Ok(Ok(vec![found.get(&mut self.store)])),
                    _ => Err(Error::msg(format!("there is no exported global `{global}`"))),
                }
            }
        }
    }

    fn invoke(&mut self, invoke: &WastInvoke<'_>) -> Executed {
        let instance = self.instance(invoke.module)?;
        let func = instance
            .get_func(&mut self.store, invoke.name)
            .ok_or_else(|| Error::msg(format!("there is no exported function `{}`", invoke.name)))?;
        let mut params = Vec::with_capacity(invoke.args.len());
        for arg in &invoke.args {
            params.push(match arg {
                WastArg::Core(arg) => values::argument(&mut self.store, arg)?,
                _ => return Err(unsupported("component argument")),
            });
        }
        let mut results = vec![Val::I32(0); func.ty(&self.store).results().len()];
        Ok(func.call(&mut self.store, &params, &mut results).map(|()| results))
    }

    fn compare(&self, found: &[Val], expected: &[WastRet<'_>]) -> Result<()> {
        if found.len() != expected.len() {
            return Err(Error::msg(format!("expected {} results, found {}", expected.len(), found.len())));
        }
        for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
            let WastRet::Core(expected) = expected else { return Err(unsupported("component result")) };
            if !values::fits(&self.store, found, expected)? {
                return Err(self.mismatch(index, found, expected));
            }
        }
        Ok(())
    }

    fn mismatch(&self, index: usize, found: &Val, expected: &WastRetCore<'_>) -> Error {
        Error::msg(format!("result {index}: expected {}, found {}", values::show_pattern(expected), values::show(&self.store, found)))
    }

    fn expect_trap(&self, executed: Result<Vec<Val>>, message: &str) -> Result<()> {
        match executed {
            Ok(found) => {
                let found = found.iter().map(|value| values::show(&self.store, value)).collect::<Vec<_>>().join(", ");
                Err(Error::msg(format!("expected the trap `{message}`, found the results [{found}]")))
            }
            Err(error) if error.downcast_ref::<Trap>().is_none() => {
                Err(Error::msg(format!("expected the trap `{message}`, found an error that is no trap: {error:#}")))
            }
            Err(error) => self.expect_message(&error, message, "trap"),
        }
    }

    fn expect_message(&self, error: &Error, message: &str, kind: &str) -> Result<()> {
        let found = format!("{error:#}");
        if self.options.ignore_error_messages || messages::matches(message, &found) {
            return Ok(());
        }
        Err(Error::msg(format!("expected the {kind} `{message}`, found: {found}")))
    }
}

fn name_of(id: Id<'_>) -> String {
    id.name().to_string()
}

fn unsupported(directive: &str) -> Error {
    Error::msg(format!("unsupported: `{directive}` directives cannot be run yet"))
}

fn panic_text(payload: &(dyn std::any::Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a value that is no text")
}
