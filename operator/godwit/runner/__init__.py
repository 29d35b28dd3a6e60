"""The process inside a Job: reads a StepRequest, runs its verbs with the engine, writes a StepOutcome."""
