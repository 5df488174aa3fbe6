"""The page: edits in a browser, `limner ui` and `limner serve --ui` (extra `ui`).

Reading order:

1. `placing`, `desk`   a face's square in its photograph; what one browser has made: sources and versions, as files
2. `starting`     where an edit starts: a file that was dropped, a seed, words, an example; recipes that come in files
3. `fields`       a method's settings as fields of a form, read from its declaration
4. `asking`       the form as a recipe, and a recipe as the form
5. `running`      edits in the server's threads: progress, pictures on the way, stop, strength
6. `looking`      the stage: source and result under one slider, where words look, masks; what is said
7. `drawing`      the brush: places added to a mask and taken from it
8. `layout`       the components
9. `showing`      the right side for a version; a result as a version
10. `context`, `beginning`, `making`, `choosing`   what the components do
11. `mounting`    the server that the page is part of
"""
