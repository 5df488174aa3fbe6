"""Edits on many machines: Ray Serve runs replicas of the same core, and the server in front asks them.

replica   one process with graphs, which makes edits and tells how far they are
engine    what the server asks in place of its own threads: cancels, and asks another replica where one went down
launch    starting both: behind `limner serve`, and as an application of `serve run`
"""
