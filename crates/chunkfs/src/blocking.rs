//! Where what blocks on the host's disk runs.

thread_local! {
    /// Whether this thread may wait for the disk just now.
    static IN_PLACE: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Runs `f` on a thread that may wait for the disk, as one of the operating system's own that nobody else needs: what
/// would be handed to such a thread runs right here instead.
pub fn waiting_in_place<T>(f: impl FnOnce() -> T) -> T {
    /// As it was, also when `f` panics.
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            IN_PLACE.set(self.0);
        }
    }
    let _restore = Restore(IN_PLACE.replace(true));
    f()
}

/// Runs what blocks on the disk away from the threads that answer, unless this one may wait. Where there is but one
/// thread, as in a simulation, it runs right there: on another it would end at a moment that no seed decides.
pub(crate) async fn blocking<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> T {
    use tokio::runtime::{Handle, RuntimeFlavor};
    if IN_PLACE.get() || Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread {
        return f();
    }
    match tokio::task::spawn_blocking(f).await {
        Ok(out) => out,
        Err(e) => std::panic::resume_unwind(e.into_panic()),
    }
}
