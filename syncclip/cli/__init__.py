"""Groups of subcommands of `syncclip`, one module each; like `cli`, they import what is heavy when it is needed."""
