//! Role dispatch: by `argv[0]`, else by subcommand.

fn main() -> std::process::ExitCode {
    virt_launcher::cli::main()
}
