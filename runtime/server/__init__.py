"""Edits over HTTP: `limner serve`, the extra `serve`.

settings    what the server allows and how it runs
bundles     the bundles that are served, each with sessions that all edits share
running     an edit in a thread of its own, from a request to what came out
uploads     what came with a request, checked and within limits
keys        who may do what
errors      every failure as JSON, in the shape of OpenAI's API
edits, images, catalogue, jobs   the endpoints
app         all of it put together
"""
