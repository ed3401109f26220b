"""Pydantic models of all that crosses Kafka or HTTP; the published contracts are generated from them."""
