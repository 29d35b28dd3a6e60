-- The application's first tables: taking them back takes all of its data.
DROP TABLE "customer";
DROP TABLE "book";
DROP TABLE "author";
