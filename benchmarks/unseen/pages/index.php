<?php
require 'common.php';
$from = 30 * max(0, (int) ($_GET['page'] ?? 0));
$body = '';
foreach (rows('SELECT t.id, t.title, count(p.id) AS posts, max(p.id) AS last FROM threads t JOIN posts p ON p.thread = t.id '
    . 'WHERE t.id > ? AND t.id <= ? GROUP BY t.id', [$from, $from + 30]) as $row) {
    $body .= "<li><a href=\"/thread.php?id={$row['id']}\">" . htmlspecialchars($row['title']) . "</a> {$row['posts']}</li>";
}
page('Threads', "<ul>$body</ul>");
