//! An instance and its context, in one piece of the heap. For stores, and for the pools in which instances wait for their next life.

use super::alloc::lease::ModuleRef;
use super::code::LoadedModule;
use super::instance::{InstanceId, VmInstance};
use peregrine_artifact::vmctx::VmContextHeader;
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// Two cache lines, as processors fetch those beside each other together. Warm instances go from thread to thread, and nothing that another thread
/// writes is to be on the lines of theirs.
const ALIGN: usize = 128;
/// What is larger is at the heap's own alignment: memory of another alignment is not zero by itself, and places of function references that are never
/// made need not be touched.
const ALIGNED_BYTES: usize = 4 << 10;
/// Of contexts.
const CONTEXT_ALIGN: usize = 16;

/// An instance, with the context that compiled code knows it by behind it.
pub(crate) struct OwnedInstance(NonNull<VmInstance>);

// SAFETY: it owns the instance, which can be sent, and its context.
unsafe impl Send for OwnedInstance {}

impl OwnedInstance {
    /// An instance whose context is all zero but for the header.
    pub(super) fn new(id: InstanceId, (kept, module): (u32, ModuleRef), header: VmContextHeader) -> Self {
        let (layout, context_offset) = layout(&module);
        // SAFETY: the layout is not empty; the context is behind the instance, which is written before anybody sees it.
        let mut owned = unsafe {
            let Some(place) = NonNull::new(alloc_zeroed(layout)) else { handle_alloc_error(layout) };
            let instance = place.cast::<VmInstance>();
            instance.write(VmInstance::new(id, (kept, module), place.add(context_offset).cast()));
            Self(instance)
        };
        owned.begin(header);
        owned
    }
}

impl Deref for OwnedInstance {
    type Target = VmInstance;

    #[inline(always)]
    fn deref(&self) -> &VmInstance {
        // SAFETY: it is there as long as it is owned, and borrowed as the owner is.
        unsafe { self.0.as_ref() }
    }
}

impl DerefMut for OwnedInstance {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut VmInstance {
        // SAFETY: as above.
        unsafe { self.0.as_mut() }
    }
}

impl Drop for OwnedInstance {
    fn drop(&mut self) {
        let (layout, _) = layout(&self.module());
        // SAFETY: `new` made it with the same layout; nobody else drops or frees it.
        unsafe {
            self.0.drop_in_place();
            dealloc(self.0.cast().as_ptr(), layout);
        }
    }
}

/// Of an instance of the module with its context, and where the latter begins.
fn layout(module: &LoadedModule) -> (Layout, usize) {
    let context = Layout::from_size_align(module.vm_layout().size_bytes(), CONTEXT_ALIGN);
    let both = context.and_then(|context| Layout::new::<VmInstance>().extend(context));
    let (layout, context_offset) = both.expect("a context is smaller than the address space");
    let is_apart = layout.size() <= ALIGNED_BYTES;
    (if is_apart { layout.align_to(ALIGN).expect("it is small") } else { layout }, context_offset)
}
