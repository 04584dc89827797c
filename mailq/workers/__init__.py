"""The worker: runs handlers and commands over queues, for months, and never loses or strands a job.

docs/workers.md is the guide, docs/internals.md the walk through these modules.
"""
