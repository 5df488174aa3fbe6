"""Studies: edits of many pictures, judged, in a folder that says how each figure came about.

- samples: pictures and texts that a study asks for, as a folder of data
- recipes: a recipe for each edit of a sample
- judge: what a picture shows, in words, by a network and without torch
- header: what a run is made of, as data with a digest
- rows: a run's folder: one line a sample and its picture; rows of another header are refused
- battery: the walk over samples, methods and edits, on an `Editor` alone; a stopped run goes on
- scores: from rows to success, intervals and what chance would reach
- tables: figures as JSON and Markdown
- rescoring: the pictures of a run read again, by the same judge or another
- tuning: settings chosen on validation pictures
"""
