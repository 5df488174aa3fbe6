"""Faces of photographs: cut as FFHQ did, edited by any method, pasted back into the photograph.

Reading order:

1. `face`: what a recipe says of a face; `landmarks`: points that are checked, and their JSON file
2. `finders`: landmarks from other packages, by entry point
3. `alignment` (with `padding`): the square that FFHQ would have cut
4. `pasting`: where the edit changed the square, and the way back
5. `whole`: the two ends of it: a photograph to a square, an Edit to a photograph
"""
