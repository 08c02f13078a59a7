"""Archives in an OCI registry: pushed as one layer per part, pulled with what is here already left where it is."""
