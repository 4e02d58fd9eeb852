//! Tells the process story: which command runs which half of nibiru.

fn main() {}
