//! The program.

fn main() -> std::process::ExitCode {
    diolkos::cli::main()
}
