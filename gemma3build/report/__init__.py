"""The pages that people look at: report.html and index.html."""
