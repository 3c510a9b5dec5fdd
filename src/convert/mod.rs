//! VMI to domain document, pure: all facts about the machine come in as values.
