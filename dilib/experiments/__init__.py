"""The paper's experiments as cells, one module a table or figure."""
