//! What this process holds, for tests that count it.

/// How many mappings it has.
pub fn mappings() -> usize {
    std::fs::read_to_string("/proc/self/maps").expect("the system lists them").lines().count()
}
