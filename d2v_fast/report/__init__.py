"""What a person looks at: tables, pictures, the dry run."""
