"""From a bundle's graphs to TensorRT engines, recorded in its bundle.json.

Reading order: `profiles` (sizes that an engine is built for), `rows` (what compilers refuse, rewritten), `builders`
(which builder is installed, and its small interface), `api` (TensorRT's own, shared by both builders), `compile` (a
bundle's graphs to engines), `report` (the tables of `make engines`), `scale` (graphs of full size).
"""
