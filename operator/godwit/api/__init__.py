"""The custom resources (group godwit.dev, version v1alpha1) as pydantic models."""
