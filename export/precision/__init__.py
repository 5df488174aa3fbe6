"""A bundle in fp16 or int8, behind a gate.

Reading order: `types`, `samples`, `ranges`; `half`, `int8`, `kernels`; `gate`, `convert`, `cli`.
"""
