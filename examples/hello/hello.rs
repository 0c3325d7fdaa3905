// SPDX-License-Identifier: Apache-2.0
//! Greets, shows what an app receives from the runtime, and ends with exit status 0.

use std::{env, fs, io};

fn main() {
    // The first argument is the name of the program; those of wapp.toml follow.
    let args: Vec<String> = env::args().skip(1).collect();
    let greeting = env::var("HELLO_GREETING").unwrap_or_else(|_| "Hello".to_string());
    let whom = args.first().map_or("nobody", String::as_str);
    println!("{greeting}, {whom}!");

    println!("arguments: {args:?}");

    let mut variables: Vec<(String, String)> = env::vars().collect();
    variables.sort();
    println!("environment: {} variable(s)", variables.len());
    for (name, value) in variables {
        println!("  {name}={value:?}");
    }

    match names_in("/data") {
        Ok(names) => println!("/data: {names:?}"),
        Err(error) => println!("/data: not here ({error})"),
    }
}

/// The sorted names of what is in a directory that the host may have opened for us.
fn names_in(directory: &str) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}
