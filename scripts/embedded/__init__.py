"""The scripts that made the embedded world `icons`: `make icons` runs them, nothing imports them."""
