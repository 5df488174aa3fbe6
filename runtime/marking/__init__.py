"""Marks that say how a picture was made: signed Content Credentials (C2PA), and what any picture says of itself.

Read `signing` (who signs), `manifest` (what is said), `credentials` (what a picture says, and whether it holds).
"""
