//! Custom sections that compilers use: names, branch hints and DWARF. Core specification, appendix "Custom Sections".
//!
//! A custom section never makes a module invalid: what cannot be read is left out.

use crate::translation::{BranchHints, Translation};
use peregrine_wasm::{CustomSection, FuncIndex};
use wasmparser::{CustomSectionReader, KnownCustom, Name};

/// Takes note of one custom section.
pub(crate) fn read<'a>(section: &CustomSectionReader<'a>, translation: &mut Translation<'a>) {
    if section.name().starts_with(".debug_") {
        translation.debug_sections.push((section.name(), section.data()));
        return;
    }
    match section.as_known() {
        KnownCustom::Name(names) => {
            for subsection in names {
                match subsection {
                    Ok(Name::Module { name, .. }) => translation.module.name = Some(name.into()),
                    Ok(Name::Function(names)) => {
                        // The last name section wins, as a whole.
                        translation.function_names.clear();
                        let read = names.map_while(Result::ok).map(|naming| (FuncIndex::from_u32(naming.index), naming.name));
                        translation.function_names.extend(read);
                    }
                    Ok(_) => {}
                    Err(_) => break,
                }
            }
        }
        KnownCustom::BranchHints(functions) => {
            let mut hints = Vec::new();
            for function in functions {
                let Ok(function) = function else { return };
                let read = function.hints.into_iter().map(|hint| hint.map(|hint| (hint.func_offset, hint.taken))).collect();
                let Ok(in_function): Result<BranchHints, _> = read else { return };
                if !in_function.is_sorted_by(|a, b| a.0 < b.0) {
                    return;
                }
                hints.push((FuncIndex::from_u32(function.func), in_function));
            }
            if hints.is_sorted_by(|a, b| a.0 < b.0) {
                translation.branch_hints = hints;
            }
        }
        _ => {
            let range = section.data_range();
            translation.module.custom_sections.push(CustomSection {
                name: section.name().into(),
                start: range.start,
                len_bytes: range.end - range.start,
            });
        }
    }
}

/// Leaves out names and hints of functions that do not exist; to be called when all sections are read.
pub(crate) fn finish(translation: &mut Translation<'_>) {
    let functions = translation.module.functions.len() as u32;
    let imported = translation.module.imported_functions;
    translation.function_names.retain(|(index, name)| index.as_u32() < functions && !name.is_empty());
    translation.branch_hints.retain(|(index, hints)| (imported..functions).contains(&index.as_u32()) && !hints.is_empty());
}
