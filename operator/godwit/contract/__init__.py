"""The only door between the two wings: what a step is asked to do and what it answers.

Frozen models, JSON, no I/O. The cluster wing writes a `StepRequest`, the database wing answers with a
`StepOutcome`; neither knows anything else of the other.
"""
