"""Foreign files read as data: nothing that a file carries is imported, called or executed.

Reading order: `pickles` (a machine for pickles without Python objects), `names` (what a pickle may ask for, and the
data that stands in for it), `archives` (torch's zip and legacy formats), `opening` (which format a file has).
"""
