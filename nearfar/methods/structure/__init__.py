"""Methods for structure in collections of texts: sets, dialogs, documents, topics."""
