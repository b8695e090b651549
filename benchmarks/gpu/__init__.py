"""What each kind of work takes on this machine's GPU, with random weights of true shapes: `make gpu`.

One process a part, ended at its limit; what a part had measured by then is kept. `<device>.json` holds all that was
measured and what was left out, `<device>.md` its tables.
"""
