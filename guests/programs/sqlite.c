// A program over SQLite: fills a database file, indexes it, queries it, closes it, opens it again and checks it.
//
// Usage: sqlite DATABASE ROWS. The output depends on ROWS alone.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "sqlite3.h"

static void check(sqlite3 *db, int code, const char *what) {
    if (code == SQLITE_OK || code == SQLITE_ROW || code == SQLITE_DONE) return;
    fprintf(stderr, "%s: %s\n", what, db ? sqlite3_errmsg(db) : sqlite3_errstr(code));
    exit(1);
}

static void run(sqlite3 *db, const char *sql) { check(db, sqlite3_exec(db, sql, NULL, NULL, NULL), sql); }

static int print_row(void *heading, int columns, char **values, char **names) {
    (void)names;
    printf("%s", (const char *)heading);
    for (int i = 0; i < columns; i++) printf(" %s", values[i] ? values[i] : "null");
    printf("\n");
    return 0;
}

static void query(sqlite3 *db, const char *heading, const char *sql) {
    check(db, sqlite3_exec(db, sql, print_row, (void *)heading, NULL), sql);
}

static sqlite3 *open_database(const char *path) {
    sqlite3 *db = NULL;
    check(db, sqlite3_open(path, &db), path);
    return db;
}

int main(int argc, char **argv) {
    if (argc != 3) return 64;
    const char *path = argv[1];
    int rows = atoi(argv[2]);
    unlink(path);

    sqlite3 *db = open_database(path);
    run(db, "create table item(id integer primary key, name text not null, price real not null, category int not null)");
    run(db, "begin");
    sqlite3_stmt *insert;
    check(db, sqlite3_prepare_v2(db, "insert into item(name, price, category) values(?, ?, ?)", -1, &insert, NULL), "prepare");
    unsigned random = 12345;
    for (int i = 0; i < rows; i++) {
        char name[40];
        random = random * 1664525u + 1013904223u;
        snprintf(name, sizeof name, "item-%08x-%d", random, i);
        sqlite3_bind_text(insert, 1, name, -1, SQLITE_STATIC);
        sqlite3_bind_double(insert, 2, (random >> 8) % 100000 / 100.0);
        sqlite3_bind_int(insert, 3, (int)(random >> 16) % 50);
        check(db, sqlite3_step(insert), "insert");
        sqlite3_reset(insert);
    }
    sqlite3_finalize(insert);
    run(db, "commit");
    run(db, "create index item_name on item(name)");
    run(db, "create index item_category on item(category, price)");
    query(db, "count", "select count(*), count(distinct name) from item");
    query(db, "sum", "select printf('%.2f', sum(price)) from item");
    query(db, "top", "select category, count(*), printf('%.2f', avg(price)) from item group by category order by 2 desc, 1 limit 3");
    query(db, "range", "select count(*), min(name) from item where name between 'item-4' and 'item-5'");
    query(db, "join", "select count(*) from item a join item b on b.category = a.category and b.price = a.price + 1 where a.id < 500");
    run(db, "begin");
    run(db, "update item set price = price * 2 where category = 7");
    run(db, "delete from item where category between 10 and 12");
    run(db, "rollback");
    run(db, "delete from item where category = 13");
    check(db, sqlite3_close(db), "close");

    db = open_database(path);
    query(db, "reopened", "select count(*), printf('%.2f', sum(price)) from item");
    query(db, "window", "select name, r from (select name, rank() over (order by price desc, name) r from item) where r <= 2");
    query(db, "like", "select count(*) from item where name like '%-ab%'");
    query(db, "json", "select json_group_array(id) from (select id from item order by name limit 4)");
    query(db, "indexed", "select (select count(*) from item not indexed) = (select count(*) from item indexed by item_category where category >= 0)");
    query(db, "version", "select sqlite_version() > '3.40'");
    check(db, sqlite3_close(db), "close");
    return 0;
}
