-- AlterTable
-- A constant default needs no rewrite of the table (PostgreSQL 11 and later).
ALTER TABLE "book"
    ADD COLUMN "isbn" TEXT,
    ADD COLUMN "pages" INTEGER,
    ADD COLUMN "language" TEXT NOT NULL DEFAULT 'en';

COMMENT ON COLUMN "book"."isbn" IS 'ISBN-13 without hyphens; unknown for old stock';
