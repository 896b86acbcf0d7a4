"""Report of an evaluation: tables, figures, pictures and the HTML page."""
