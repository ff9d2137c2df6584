"""Model file formats: strict readers, and stabilizers that remove known differences."""
