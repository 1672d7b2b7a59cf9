"""From recorded runs to tables, figures and a report."""
