//! Profiles in the API: what the functions of a module did, and code that is made with that in mind.
//!
//! Counting is done by code of the baseline, see [`crate::tiering`]; what a profile is, and its bytes, by [`peregrine_artifact::profile`].
//! Profilers of the system, which are told about code, are another matter: [`crate::profile`].

use crate::engine::refuse_image;
use crate::error::Result;
use crate::{Engine, Module};
use peregrine_artifact::compiler::{Guidance, Progress};
use peregrine_artifact::profile::{Profile, ProfileError};
use peregrine_artifact::settings::Tiering;
use std::sync::Arc;

impl Module {
    /// What the functions of this module did in this process so far: how often each was called, how much was done in it, and where its
    /// indirect and reference calls went. [`Profile::to_bytes`] is for files; [`Engine::precompile_module_with_profile`] and
    /// [`add_profile`](Self::add_profile) make use of it.
    ///
    /// Code of the baseline counts, until the optimizing tier takes a function over: with [`Config::gather_profile`](crate::Config::gather_profile)
    /// it never does, so that the counts are whole. `None` for modules whose code does not count, those that are compiled as a whole, and for those whose
    /// file is gone.
    ///
    /// ```
    /// use peregrine::{Config, Engine, Instance, Module, Store};
    ///
    /// let engine = Engine::new(Config::new().gather_profile(true))?;
    /// let module = Module::new(&engine, r#"(module (func (export "run")))"#)?;
    /// let mut store = Store::new(&engine, ());
    /// let instance = Instance::new(&mut store, &module, &[])?;
    /// let run = instance.get_typed_func::<(), ()>(&mut store, "run")?;
    /// (0..3).try_for_each(|_| run.call(&mut store, ()))?;
    /// let profile = module.profile().expect("functions are compiled one by one");
    /// assert_eq!(profile.functions().map(|(_, function)| function.calls).collect::<Vec<_>>(), [3]);
    /// # Ok::<(), peregrine::Error>(())
    /// ```
    pub fn profile(&self) -> Option<Profile> {
        let loaded = self.loaded();
        let counts = self.engine().settings().tiering == Tiering::Counted;
        let tiering = loaded.tiering().filter(|_| counts)?;
        let binary = tiering.source().binary.bytes().ok()?;
        let name = Profile::new((*binary).as_ref());
        Some(tiering.profile(loaded).with_module_hash(*name.module_hash()))
    }

    /// [`new`](Self::new), with what earlier runs of the module did in mind: see [`Engine::precompile_module_with_profile`]. The
    /// [cache](crate::Config::cache) is not asked for modules that are compiled as a whole.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new), and [`ProfileError::OtherModule`] if the profile is not of this module.
    pub fn new_with_profile(engine: &Engine, bytes: impl AsRef<[u8]>, profile: &Profile) -> Result<Self> {
        if engine.settings().tiering == Tiering::Whole {
            let bytes = bytes.as_ref();
            let module = Self::from_image(engine, &engine.precompile_module_with_profile(bytes, profile, &())?)?;
            module.keep_for_dumps(&engine.compiler_from_now()?.to_binary(bytes)?);
            return Ok(module);
        }
        let module = Self::new(engine, bytes)?;
        module.add_profile(profile)?;
        Ok(module)
    }

    /// Lets the optimizing tier go by what earlier runs did, beside what it finds in this one. Nothing for modules that are compiled as a whole.
    ///
    /// # Errors
    ///
    /// [`ProfileError::OtherModule`] if the profile is of another module.
    pub fn add_profile(&self, profile: &Profile) -> Result<()> {
        let Some(tiering) = self.loaded().tiering() else { return Ok(()) };
        let binary = tiering.source().binary.bytes()?;
        check(profile, (*binary).as_ref())?;
        tiering.add_profile(profile.clone());
        Ok(())
    }
}

impl Engine {
    /// [`precompile_module`](Self::precompile_module), with what earlier runs of the module did in mind: calls that went to one function go
    /// there directly if they still do, what was called often is compiled into its callers, what was never reached is put aside. A profile
    /// changes how fast code is and never what it does.
    ///
    /// # Errors
    ///
    /// As there, and [`ProfileError::OtherModule`] if the profile is not of this module.
    pub fn precompile_module_with_profile(&self, bytes: &[u8], profile: &Profile, progress: &dyn Progress) -> Result<Vec<u8>> {
        refuse_image(bytes)?;
        self.config().budget.check_bytes(bytes)?;
        let compiler = self.compiler_from_now()?;
        let wasm = compiler.to_binary(bytes)?;
        self.config().budget.check_module(wasm.len())?;
        check(profile, &wasm)?;
        let guidance = Guidance { record: false, feedback: Some(Arc::new(profile.clone())) };
        Ok(compiler.compile_guided(&wasm, self.whole_settings(), &guidance, progress)?)
    }
}

/// Refuses a profile that is not of the binary module `wasm`.
fn check(profile: &Profile, wasm: &[u8]) -> Result<(), ProfileError> {
    if profile.is_of(wasm) { Ok(()) } else { Err(ProfileError::OtherModule) }
}
