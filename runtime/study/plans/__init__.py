"""A study as data: `plan` is what is asked, `arms` what that comes to, `making` the edits, `size` how many it takes."""
