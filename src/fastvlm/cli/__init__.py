"""The `fastvlm` command: one module per subcommand, each importing its feature only when it runs."""
