"""The site of the documentation: pages, their pictures, and the Markdown extension that reads them."""
