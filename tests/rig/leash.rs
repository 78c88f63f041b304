//! A replica that a tool started ends with the tool, however that ends: it holds the other end of the replica's standard
//! input.

use std::{
    io::{self, Read},
    process, thread,
};

/// Ends this process when its standard input ends. For an executable that starts itself as a replica.
pub fn follow() {
    thread::spawn(|| {
        let (mut stdin, mut buffer) = (io::stdin().lock(), [0; 64]);
        while stdin.read(&mut buffer).is_ok_and(|read| read > 0) {}
        process::exit(0);
    });
}
