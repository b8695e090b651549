"""Scripts that build the toy benchmark `icons`; run them with `make icons`."""
