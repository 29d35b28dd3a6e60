"""Functions that destroy nothing: PostgreSQL's own, as far as migrations use them.

What is not here is taken for one that can destroy data. Those of contrib's uuid-ossp, pgcrypto, pg_trgm and
unaccent are here as well (manual, chapter 9 and appendix F).
"""

from typing import Final

HARMLESS: Final = frozenset({
    "abs", "age", "array_agg", "array_append", "array_cat", "array_fill", "array_length", "array_lower",
    "array_position", "array_positions", "array_prepend", "array_remove", "array_replace", "array_to_json",
    "array_to_string", "array_upper", "ascii", "avg", "bit_and", "bit_length", "bit_or", "bool_and",
    "bool_or", "btrim", "cardinality", "cbrt", "ceil", "ceiling", "char_length", "character_length", "chr",
    "clock_timestamp", "coalesce", "col_description", "concat", "concat_ws", "convert_from", "convert_to",
    "count", "crypt", "cume_dist", "current_database", "current_schema", "current_schemas",
    "current_setting", "currval", "date", "date_bin", "date_part", "date_trunc", "daterange", "decode",
    "degrees", "dense_rank", "div", "encode", "every", "exp", "extract", "first_value", "floor", "format",
    "format_type", "gcd", "gen_random_uuid", "gen_salt", "generate_series", "generate_subscripts",
    "greatest", "has_column_privilege", "has_function_privilege", "has_schema_privilege",
    "has_table_privilege", "hashtext", "initcap", "int4range", "int8range", "isempty", "isfinite",
    "json_agg", "json_array_elements", "json_array_elements_text", "json_array_length", "json_build_array",
    "json_build_object", "json_each", "json_each_text", "json_extract_path", "json_extract_path_text",
    "json_object", "json_object_agg", "json_object_keys", "json_populate_record", "json_populate_recordset",
    "json_strip_nulls", "json_to_record", "json_to_recordset", "json_typeof", "jsonb_agg",
    "jsonb_array_elements", "jsonb_array_elements_text", "jsonb_array_length", "jsonb_build_array",
    "jsonb_build_object", "jsonb_each", "jsonb_each_text", "jsonb_extract_path", "jsonb_extract_path_text",
    "jsonb_insert", "jsonb_object", "jsonb_object_agg", "jsonb_object_keys", "jsonb_path_exists",
    "jsonb_path_query", "jsonb_path_query_array", "jsonb_path_query_first", "jsonb_populate_record",
    "jsonb_populate_recordset", "jsonb_set", "jsonb_strip_nulls", "jsonb_to_record", "jsonb_to_recordset",
    "jsonb_typeof", "justify_days", "justify_hours", "justify_interval", "lag", "last_value", "lastval",
    "lcm", "lead", "least", "left", "length", "ln", "log", "lower", "lpad", "ltrim", "make_date",
    "make_interval", "make_time", "make_timestamp", "make_timestamptz", "max", "md5", "min", "mod", "mode",
    "nextval", "normalize", "now", "nth_value", "ntile", "nullif", "num_nonnulls", "num_nulls", "numrange",
    "obj_description", "octet_length", "overlay", "parse_ident", "percent_rank", "percentile_cont",
    "percentile_disc", "pg_backend_pid", "pg_get_constraintdef", "pg_get_expr", "pg_get_functiondef",
    "pg_get_indexdef", "pg_get_serial_sequence", "pg_get_viewdef", "pg_has_role", "pg_notify", "pg_sleep",
    "pg_table_is_visible", "pg_typeof", "phraseto_tsquery", "pi", "plainto_tsquery", "position", "power",
    "quote_ident", "quote_literal", "quote_nullable", "radians", "random", "rank", "regexp_count",
    "regexp_like", "regexp_match", "regexp_matches", "regexp_replace", "regexp_split_to_array",
    "regexp_split_to_table", "regexp_substr", "repeat", "replace", "reverse", "right", "round",
    "row_number", "row_to_json", "rpad", "rtrim", "scale", "set_config", "setval", "setweight", "sha224",
    "sha256", "sha384", "sha512", "sign", "similarity", "split_part", "sqrt", "starts_with",
    "statement_timestamp", "stddev", "string_agg", "string_to_array", "string_to_table", "strpos", "substr",
    "substring", "sum", "timezone", "to_char", "to_date", "to_hex", "to_json", "to_jsonb", "to_number",
    "to_regclass", "to_regnamespace", "to_regproc", "to_regprocedure", "to_regrole", "to_regtype",
    "to_timestamp", "to_tsquery", "to_tsvector", "transaction_timestamp", "translate", "trim", "trunc",
    "tsrange", "tstzrange", "txid_current", "unaccent", "unnest", "upper", "uuid_generate_v1",
    "uuid_generate_v1mc", "uuid_generate_v4", "uuidv4", "uuidv7", "variance", "version",
    "websearch_to_tsquery", "width_bucket",
})  # fmt: skip

WORDS: Final = frozenset({
    "all", "and", "any", "array", "as", "by", "char", "character", "check", "decimal", "else", "elsif",
    "enum", "exists", "filter", "if", "in", "key", "not", "numeric", "on", "only", "or", "over", "primary",
    "raise", "return", "returning", "select", "then", "unique", "using", "values", "varchar", "when",
    "where", "with",
})  # fmt: skip
"""Words of PL/pgSQL and SQL that a bracket may follow, and that are no functions."""
